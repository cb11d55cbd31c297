"""The web page that clips are made on: its layout, and the work behind it."""
