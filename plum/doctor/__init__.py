"""Will a configuration run here, and will it fit? Environment, folders, memory, a known answer."""
