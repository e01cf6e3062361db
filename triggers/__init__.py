"""The one HTTP door of the loop: starts runs, shows them, takes decisions and signals."""
