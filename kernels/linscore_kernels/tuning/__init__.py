"""How kernels are launched on each architecture, and how that is measured."""
