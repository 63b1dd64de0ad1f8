//go:build !race

package trust_test

// modelSeeds is how many runs TestModel does.
const modelSeeds = 10
