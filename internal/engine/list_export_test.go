package engine

// RunLinks are the keys by which a run is found.
var RunLinks = runLinks
