package delivery

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/store"
)

// selfTests begins the names of partitions of self-tests. Nobody else can report to them,
// and they are listed nowhere.
const selfTests = "self-test~"

// leftover is the age at which the partition of a self-test is one whose server has ended.
const leftover = time.Hour

// SelfTest implements waybill.Deliveries. What it writes is in a partition of its own, under
// names that occur nowhere else, and is deleted whether it succeeds or not; what a server
// left that ended meanwhile is deleted by a later one.
func (s *Service) SelfTest(ctx context.Context, by waybill.Principal) (took time.Duration, err error) {
	began := time.Now()
	id := waybill.NewID(s.o.Now())
	partition := selfTests + id
	defer func() {
		// The request may be over; what was written goes all the same.
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		err = errors.Join(err, s.drop(clean, partition), s.dropLeftovers(clean))
	}()
	tag, service, commit := "v1.04-"+id, "self-test", strings.ReplaceAll(id, "-", "")
	build := waybill.DeliveryReport{Kind: waybill.ReportBuild, Partition: partition, Provider: "self-test", Run: "1", ImageTag: tag, Service: service, Commit: commit}
	change := waybill.DeliveryReport{Kind: waybill.ReportConfig, Partition: partition, Provider: "self-test", Run: "2", ImageTag: tag, Ring: "self-test", ConfigCommit: commit}
	wrong := func(format string, args ...any) error {
		return waybill.E(waybill.KindInternal, "self-test: "+format, args...)
	}
	for i, x := range []struct {
		report waybill.DeliveryReport
		want   waybill.ReportAction
	}{{build, waybill.ActionInserted}, {change, waybill.ActionUpdated}, {change, waybill.ActionRepeated}} {
		res, err := s.report(ctx, x.report, by)
		if err != nil {
			return 0, err
		}
		if res.Action != x.want {
			return 0, wrong("report %d was %s, and should have been %s", i+1, res.Action, x.want)
		}
	}
	page, err := s.Deployments(ctx, waybill.DeploymentFilter{Partition: partition, ImageTag: tag, Build: "1"})
	if err != nil {
		return 0, err
	}
	if len(page.Items) != 1 || page.Items[0].Ring != "self-test" || page.Items[0].Config.Last() == nil || page.Items[0].Service != service {
		return 0, wrong("%d deployments were read, and what was reported is not among them", len(page.Items))
	}
	return time.Since(began), nil
}

// drop deletes all that is kept of a partition.
func (s *Service) drop(ctx context.Context, partition string) error {
	key := escape(partition)
	// The head goes last: by it the partition is found, should this be cut off.
	for _, t := range slices.Backward(Tables()) {
		prefix := key + "/"
		if t.Name == tableHead {
			prefix = key
		}
		for {
			rows, err := s.o.Store.Scan(ctx, "", t.Name, prefix, 500)
			if err != nil {
				return err
			}
			if len(rows) == 0 {
				break
			}
			c := &store.Commit{}
			for _, r := range rows {
				c.Puts = append(c.Puts, store.Put{Table: t.Name, Key: r.Key, Rev: store.AnyRev})
			}
			if err := s.o.Store.Commit(ctx, c); err != nil {
				return err
			}
		}
	}
	return nil
}

// dropLeftovers deletes the partitions of self-tests whose server ended before it could.
func (s *Service) dropLeftovers(ctx context.Context) error {
	rows, err := s.o.Store.Scan(ctx, "", tableHead, escape(selfTests), 100)
	if err != nil {
		return err
	}
	before := s.o.Now().Add(-leftover)
	for _, r := range rows {
		p := unescape(r.Key)
		if at, ok := waybill.IDTime(strings.TrimPrefix(p, selfTests)); ok && at.Before(before) {
			if err := s.drop(ctx, p); err != nil {
				return err
			}
		}
	}
	return nil
}
