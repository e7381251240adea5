"""Images with labels for several tasks: the scene generator and folders described by a manifest."""
