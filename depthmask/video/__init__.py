"""Frames from photographs, videos and cameras; views of predictions; files and windows to show them."""
