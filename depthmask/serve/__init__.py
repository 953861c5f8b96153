"""`dmx serve`: a bundle as a small HTTP service, beside its web page where it has one.

server.py listens and drains, watchdog.py cuts slow clients off; app.py has the routes, service.py the
answers; worker.py is the one thread that owns the pipeline. Starlette, uvicorn and prometheus-client (extra
`serve`) are imported when they are used.
"""
