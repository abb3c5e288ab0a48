"""What the training panel shows; the training itself lives in ``bpr`` and runs in a process of its own."""
