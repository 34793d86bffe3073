package facetbench

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// ReadLucene reads what bench/lucene writes. Want are the right answers, or nil.
func ReadLucene(in io.Reader, plan []Query, want []string) (*LuceneReport, error) {
	r := &LuceneReport{Classes: map[Class]Figures{}}
	samples := map[Class][]Sample{}
	var updates []Sample
	sc := bufio.NewScanner(in)
	for sc.Scan() {
		c := strings.Split(sc.Text(), "\t")
		n := make([]int64, len(c))
		for i := 1; i < len(c); i++ {
			if c[0] == "answer" && i == 2 {
				continue
			}
			var err error
			if n[i], err = strconv.ParseInt(c[i], 10, 64); err != nil {
				return nil, fmt.Errorf("what Lucene's run says is not understood: %q", sc.Text())
			}
		}
		switch {
		case c[0] == "build" && len(c) == 5:
			r.Build.Wall, r.Build.CPU = time.Duration(n[2]), time.Duration(n[3])
			r.Bytes = float64(n[4]) / float64(n[1])
		case c[0] == "answer" && len(c) == 4:
			if want != nil {
				if err := Check(&plan[n[1]], want[n[1]], c[2]); err != nil {
					return nil, fmt.Errorf("Lucene: %w", err)
				}
				r.Checked++
			}
		case c[0] == "query" && len(c) == 4:
			class := plan[n[1]].Class
			samples[class] = append(samples[class], Sample{time.Duration(n[2]), time.Duration(n[3])})
		case c[0] == "update" && len(c) == 4:
			updates = append(updates, Sample{time.Duration(n[2]), time.Duration(n[3])})
		default:
			return nil, fmt.Errorf("what Lucene's run says is not understood: %q", sc.Text())
		}
	}
	for class, s := range samples {
		r.Classes[class] = Summarize(s)
	}
	r.Update = Summarize(updates)
	return r, sc.Err()
}
