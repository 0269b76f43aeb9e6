"""What happens while an agent learns: callbacks, the replay of frames, checkpoints and going on from them."""
