"""Studies: a grid of victims, conditions, data sets and seeds in one file, and the store it leaves."""
