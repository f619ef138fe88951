"""What is asked of parts before they serve: do they fit, do they keep the contract, what do they cost."""
