"""Depth surgery: from a decoder to one with fewer blocks, or with linear maps in their place."""
