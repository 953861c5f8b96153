"""One file per command of `dmx`: parse, call one library function, print."""
