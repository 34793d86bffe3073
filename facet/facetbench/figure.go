package facetbench

import (
	"slices"
	"time"
)

// Sample is what one request took.
type Sample struct{ Wall, CPU time.Duration }

// Figures sum up samples.
type Figures struct {
	N       int           `json:"n"`
	P50     time.Duration `json:"p50_ns"`
	P99     time.Duration `json:"p99_ns"`
	CPUP50  time.Duration `json:"cpu_p50_ns"`
	CPUP99  time.Duration `json:"cpu_p99_ns"`
	CPUMean time.Duration `json:"cpu_mean_ns"`
}

// Summarize makes figures of samples. A percentile is the sample of that rank, the
// largest one of few.
func Summarize(samples []Sample) Figures {
	if len(samples) == 0 {
		return Figures{}
	}
	var wall, cpu []time.Duration
	var sum time.Duration
	for _, s := range samples {
		wall, cpu = append(wall, s.Wall), append(cpu, s.CPU)
		sum += s.CPU
	}
	slices.Sort(wall)
	slices.Sort(cpu)
	at := func(d []time.Duration, p int) time.Duration { return d[min(len(d)*p/100, len(d)-1)] }
	return Figures{N: len(samples), P50: at(wall, 50), P99: at(wall, 99), CPUP50: at(cpu, 50), CPUP99: at(cpu, 99), CPUMean: sum / time.Duration(len(samples))}
}

// Report is what was measured on one number of documents.
type Report struct {
	Docs       int               `json:"docs"`
	Build      BuildFigures      `json:"build"`
	IndexBytes float64           `json:"index_bytes_per_doc"` // besides the documents themselves
	DocBytes   float64           `json:"source_bytes_per_doc"`
	Open       Figures           `json:"open"`
	Update     Figures           `json:"update_1000"` // with decoding the documents from JSON
	Apply      Figures           `json:"apply_1000"`  // without
	Classes    map[Class]Figures `json:"classes"`
	Checked    int               `json:"checked"` // answers that an oracle agreed with
	Lucene     *LuceneReport     `json:"lucene,omitempty"`
}

// BuildFigures are those of making an index of JSON lines.
type BuildFigures struct {
	Wall   time.Duration `json:"wall_ns"`
	CPU    time.Duration `json:"cpu_ns"`
	RSS    int64         `json:"max_rss_bytes"`  // the most, with mapped files
	Memory int64         `json:"max_anon_bytes"` // the most, without; 0 if unknown
}

// LuceneReport is what was measured of Lucene on the same documents.
type LuceneReport struct {
	Build   BuildFigures      `json:"build"`
	Bytes   float64           `json:"bytes_per_doc"`
	Update  Figures           `json:"update_1000"`
	Classes map[Class]Figures `json:"classes"`
	Checked int               `json:"checked"` // answers that are the engine's
}

// A Bar is what a figure may be at most, 0 for anything.
type Bar struct{ P50, P99 time.Duration }

// Bars returns what is promised of a class at a number of documents.
func Bars(c Class, docs int) Bar {
	const ms = time.Millisecond
	switch docs {
	case 1_000_000:
		return map[Class]Bar{Unfiltered: {2 * ms, 5 * ms}, Filtered: {3 * ms, 30 * ms}, Wide: {15 * ms, 30 * ms}, Worst: {20 * ms, 20 * ms},
			Pages: {2 * ms, 15 * ms}, FilteredPages: {2 * ms, 15 * ms}}[c]
	case 10_000_000:
		return map[Class]Bar{Filtered: {20 * ms, 200 * ms}, Worst: {300 * ms, 300 * ms}}[c]
	}
	return Bar{}
}

// LuceneBar is by how much less CPU than Lucene a class has to take, 0 for any.
func LuceneBar(c Class) float64 {
	switch c {
	case Unfiltered, Filtered, Wide, Worst, Narrow, Pages, FilteredPages:
		return 3
	}
	return 0
}
