"""Training and purification; imports torch, attacks and lightning, and knows no data set or victim class."""
