"""
What an agent sees, what fires in it and what it decides. ``record`` plays, ``recorder`` observes the layers of a network,
``notes`` collects decision by decision, ``recording`` holds all of it and reads and writes its file. Page, video and still
draw it.
"""
