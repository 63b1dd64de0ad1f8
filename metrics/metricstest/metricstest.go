// Package metricstest reads what package metrics writes, as strictly as
// Prometheus does, for tests.
package metricstest

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var (
	typeLine = regexp.MustCompile(`^# TYPE ([a-z_][a-z0-9_]*) (counter|gauge|histogram|summary)$`)
	helpLine = regexp.MustCompile(`^# HELP ([a-z_][a-z0-9_]*) \S.*$`)
	sample   = regexp.MustCompile(`^([a-z_][a-z0-9_]*)(\{[a-z]+="[^"\\\n]*"(?:,[a-z]+="[^"\\\n]*")*\})? (\S+)$`)
)

// Parse returns the values by series, such as up{job="x"}. The test fails for
// a line that is not of the format, a series that comes twice, and one whose
// family was not announced right before.
func Parse(t testing.TB, text string) map[string]float64 {
	t.Helper()
	all := map[string]float64{}
	families := map[string]bool{}
	family, kind := "", ""
	if !strings.HasSuffix(text, "\n") {
		t.Error("the last line has no end")
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if m := typeLine.FindStringSubmatch(line); m != nil {
			if families[m[1]] {
				t.Errorf("family %s comes twice", m[1])
			}
			family, kind, families[m[1]] = m[1], m[2], true
			continue
		}
		if helpLine.MatchString(line) {
			continue
		}
		m := sample.FindStringSubmatch(line)
		if m == nil {
			t.Errorf("line %q is not of the format", line)
			continue
		}
		name := m[1]
		if kind == "histogram" || kind == "summary" {
			for _, end := range []string{"_bucket", "_sum", "_count"} {
				name = strings.TrimSuffix(name, end)
			}
		}
		if name != family {
			t.Errorf("series %s stands under %s", m[1], family)
		}
		value, err := strconv.ParseFloat(m[3], 64)
		if _, twice := all[m[1]+m[2]]; twice || err != nil {
			t.Errorf("line %q: a second time %v, %v", line, twice, err)
		}
		all[m[1]+m[2]] = value
	}
	return all
}
