"""The mask side: SAM from its own package's modules, and its masks at original resolution."""
