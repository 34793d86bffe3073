package delivery

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/waybill-run/waybill"
)

// lookback is how long before the window deployments are looked at, to tell what is new
// in it and what is repaired.
const lookback = 30 * 24 * time.Hour

// landing is a deployment that reached a ring.
type landing struct {
	d       *waybill.Deployment
	reached time.Time
	healthy time.Time // zero: never
	failed  time.Time // first sign of failure; zero: none
}

// DORA implements waybill.Deliveries.
func (s *Service) DORA(ctx context.Context, q waybill.DORAQuery) (waybill.DORA, error) {
	out := waybill.DORA{Ring: fold(q.Ring), Service: q.Service, From: q.From.UTC(), Until: q.Until.UTC(), Approximate: []string{}}
	if q.Ring == "" || !q.From.Before(q.Until) {
		return out, waybill.E(waybill.KindInvalid, "the delivery metrics need a ring, and a window that ends after it begins")
	}
	// Before anything was reported nothing can have been counted.
	begun, err := s.begun(ctx, q.Partition)
	if err != nil {
		return out, err
	}
	if begun.After(out.From) && begun.Before(out.Until) {
		out.From = begun
		out.Approximate = append(out.Approximate, "nothing was reported before "+begun.Format(time.RFC3339)+": the window begins then")
	}
	var rows []waybill.Deployment
	f := waybill.DeploymentFilter{Partition: q.Partition, Ring: q.Ring, Service: q.Service, Since: q.From.Add(-lookback), Limit: 1000, Asc: true}
	for {
		page, err := s.Deployments(ctx, f)
		if err != nil {
			return out, err
		}
		rows = append(rows, page.Items...)
		if f.Cursor = page.Next; f.Cursor == "" {
			break
		}
	}
	measure(&out, rows)
	return out, nil
}

// begun is when the first that a partition knows of happened, zero when it knows of nothing.
func (s *Service) begun(ctx context.Context, partition string) (time.Time, error) {
	page, err := s.Deployments(ctx, waybill.DeploymentFilter{Partition: partition, Sort: waybill.SortCreated, Asc: true, Limit: 1})
	if err != nil || len(page.Items) == 0 {
		return time.Time{}, err
	}
	return page.Items[0].CreatedAt, nil
}

// measure computes the metrics of rows of one ring.
func measure(out *waybill.DORA, rows []waybill.Deployment) {
	told := slices.ContainsFunc(rows, func(d waybill.Deployment) bool {
		return slices.ContainsFunc(d.Clusters, func(c waybill.DeploymentCluster) bool { return !c.HealthyAt.IsZero() || !c.FailedAt.IsZero() })
	})
	byService := map[string][]*landing{}
	for i := range rows {
		if l := land(&rows[i], told); l != nil && l.reached.Before(out.Until) {
			k := fold(l.d.Service)
			byService[k] = append(byService[k], l)
		}
	}
	var leads, repairs []time.Duration
	untimed := 0
	for _, list := range byService {
		slices.SortFunc(list, func(a, b *landing) int { return cmp.Or(a.reached.Compare(b.reached), cmp.Compare(a.d.ID, b.d.ID)) })
		returns := make([]bool, len(list)) // to an image that was there before another one
		for i := range list {
			returns[i] = returned(list, i)
			if i > 0 && returns[i] && list[i-1].failed.IsZero() {
				list[i-1].failed = list[i].reached
			}
		}
		for i, l := range list {
			if l.reached.Before(out.From) {
				continue
			}
			out.Deployments++
			if i > 0 && !list[i-1].failed.IsZero() {
				out.Rework++
			}
			if !l.failed.IsZero() {
				out.Failed++
				if end := recovery(list, i); !end.IsZero() {
					out.Recovered++
					repairs = append(repairs, end.Sub(l.failed))
				}
			}
			if l.healthy.IsZero() || slices.ContainsFunc(list[:i], func(x *landing) bool { return sameRowImage(x.d, l.d) }) {
				continue
			}
			begin := l.d.CommittedAt
			if begin.IsZero() {
				untimed++
				begin = l.d.CreatedAt
				if l.d.Build != nil && len(l.d.Build.Runs) > 0 {
					begin = l.d.Build.Runs[0].SeenAt
				}
			}
			leads = append(leads, l.healthy.Sub(begin))
		}
	}
	out.Timed, out.LeadTime, out.LeadTimeP90 = len(leads), rank(leads, 50).Seconds(), rank(leads, 90).Seconds()
	out.Recovery = rank(repairs, 50).Seconds()
	out.Frequency = float64(out.Deployments) / (out.Until.Sub(out.From).Hours() / 24)
	if out.Deployments > 0 {
		out.FailRate = float64(out.Failed) / float64(out.Deployments)
		out.ReworkRate = float64(out.Rework) / float64(out.Deployments)
	}
	out.Approximate = append(out.Approximate, "failures are those that clusters told of, and deployments that were taken back; incidents are not known")
	if !told {
		out.Approximate = append(out.Approximate, "no cluster told of this ring: a deployment counts when its manifests were made, and every one counts as healthy")
	}
	if untimed > 0 {
		out.Approximate = append(out.Approximate, fmt.Sprintf("the time of the commit is not known of %d of %d: the first report of the build stands for it", untimed, len(leads)))
	}
}

// land says when a row reached its ring, nil when it did not. Told: clusters of the ring tell.
func land(d *waybill.Deployment, told bool) *landing {
	l := &landing{d: d}
	if !told {
		if d.Status != waybill.DeploymentComplete {
			return nil
		}
		l.reached, l.healthy = d.UpdatedAt, d.UpdatedAt
		return l
	}
	for _, c := range d.Clusters {
		l.healthy, l.failed = earliest(l.healthy, c.HealthyAt), earliest(l.failed, c.FailedAt)
	}
	if l.reached = earliest(l.healthy, l.failed); l.reached.IsZero() {
		return nil
	}
	return l
}

func sameRowImage(a, b *waybill.Deployment) bool {
	return sameImage(visit{ImageTag: a.ImageTag, ImageDigest: a.ImageDigest}, visit{ImageTag: b.ImageTag, ImageDigest: b.ImageDigest})
}

// returned reports whether entry i, of a list with the oldest first, went back to an image
// that was there before another one.
func returned(list []*landing, i int) bool {
	if i == 0 || sameRowImage(list[i-1].d, list[i].d) {
		return false
	}
	return slices.ContainsFunc(list[:i-1], func(x *landing) bool { return sameRowImage(x.d, list[i].d) })
}

// recovery is when the service was healthy again after entry i had failed.
func recovery(list []*landing, i int) time.Time {
	var out time.Time
	for _, l := range list[i:] {
		if !l.healthy.Before(list[i].failed) && (l.d != list[i].d || l.healthy.After(list[i].failed)) {
			out = earliest(out, l.healthy)
		}
	}
	return out
}

// rank is a percentile by the nearest rank, zero of nothing.
func rank(list []time.Duration, percent int) time.Duration {
	if len(list) == 0 {
		return 0
	}
	list = slices.Sorted(slices.Values(list))
	return list[(len(list)*percent+99)/100-1]
}
