"""Cost tables measured on a device: a kit of small networks, its measurement, and the table that is fitted to them."""
