package deliverytest

import (
	"sort"
	"time"

	"github.com/waybill-run/waybill"
)

// Metrics are the delivery metrics of a ring, as far as they are counted.
type Metrics struct {
	Deployments, Failed, Rework, Recovered, Timed int
	Lead, LeadP90, Recovery                       time.Duration
}

// Measure calculates metrics from the rows of a set, plainly: service by service, the
// deployments in the order in which they reached the ring.
func Measure(rows []Row, reports []waybill.DeliveryReport, ring, service string, from, until time.Time) Metrics {
	type arrival struct {
		*Row
		at, healthy, failed, committed time.Time
	}
	var all []arrival
	for i := range rows {
		r := &rows[i]
		if r.Ring != ring || service != "" && r.Display() != service {
			continue
		}
		a := arrival{Row: r}
		for _, t := range r.Healthy {
			if a.healthy.IsZero() || t.Before(a.healthy) {
				a.healthy = t
			}
		}
		for _, t := range r.Failed {
			if a.failed.IsZero() || t.Before(a.failed) {
				a.failed = t
			}
		}
		a.at = a.healthy
		if a.at.IsZero() || !a.failed.IsZero() && a.failed.Before(a.at) {
			a.at = a.failed
		}
		if a.at.IsZero() || !a.at.Before(until) {
			continue
		}
		for j := range reports {
			if reports[j].Kind == waybill.ReportBuild && reports[j].ImageTag == r.ImageTag {
				a.committed = reports[j].CommittedAt
			}
		}
		all = append(all, a)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].at.Before(all[j].at) })
	// A return to an image that was there before another one says that the one between was bad.
	before := func(i int) int { // the one of the same service before entry i
		for j := i - 1; j >= 0; j-- {
			if all[j].Service == all[i].Service {
				return j
			}
		}
		return -1
	}
	seen := func(i int) bool {
		for j := range i {
			if all[j].Service == all[i].Service && all[j].ImageTag == all[i].ImageTag {
				return true
			}
		}
		return false
	}
	for i := range all {
		if j := before(i); j >= 0 && all[j].ImageTag != all[i].ImageTag && seen(i) && all[j].failed.IsZero() {
			all[j].failed = all[i].at
		}
	}
	var m Metrics
	var leads, repairs []time.Duration
	for i := range all {
		a := &all[i]
		if a.at.Before(from) {
			continue
		}
		m.Deployments++
		if j := before(i); j >= 0 && !all[j].failed.IsZero() {
			m.Rework++
		}
		if !a.failed.IsZero() {
			m.Failed++
			var end time.Time
			for j := range all {
				h := all[j].healthy
				if all[j].Service != a.Service || all[j].at.Before(a.at) || h.Before(a.failed) || j == i && !h.After(a.failed) {
					continue
				}
				if end.IsZero() || h.Before(end) {
					end = h
				}
			}
			if !end.IsZero() {
				m.Recovered++
				repairs = append(repairs, end.Sub(a.failed))
			}
		}
		if !a.healthy.IsZero() && !seen(i) {
			leads = append(leads, a.healthy.Sub(a.committed))
		}
	}
	m.Timed = len(leads)
	m.Lead, m.LeadP90, m.Recovery = nth(leads, 0.5), nth(leads, 0.9), nth(repairs, 0.5)
	return m
}

// nth is a percentile by the nearest rank.
func nth(list []time.Duration, share float64) time.Duration {
	if len(list) == 0 {
		return 0
	}
	sort.Slice(list, func(i, j int) bool { return list[i] < list[j] })
	rank := 1
	for float64(rank) < share*float64(len(list)) {
		rank++
	}
	return list[rank-1]
}
