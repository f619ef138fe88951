"""Loading, saving and pushing a whole pipeline; its model card."""
