"""Environment families: levels, dynamics, rendering and named level sets."""
