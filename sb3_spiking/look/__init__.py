"""What an agent sees, what fires in it and what it decides: recordings, a page, a video, pictures."""
