"""What happens to training pictures: resizing, geometry, colour, and the joining of several pictures."""
