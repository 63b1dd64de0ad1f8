//go:build race

package trust_test

// modelSeeds is how many runs TestModel does: the race detector makes it take
// ten times as long, and all is done by one goroutine.
const modelSeeds = 1
