"""Parts of image systems that stand in for real ones: their ports are those of the real parts, their insides are small."""
