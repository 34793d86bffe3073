package delivery_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery"
	"github.com/waybill-run/waybill/internal/store"
)

// contents are all rows that the package keeps.
func contents(t *testing.T, s store.Store) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, table := range delivery.Tables() {
		rows, err := s.Scan(t.Context(), "", table.Name, "", 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rows {
			out[table.Name+" "+r.Key] = string(r.Val)
		}
	}
	return out
}

func TestF43_SelfTestLeavesNothing(t *testing.T) {
	stores(t, func(t *testing.T, st store.Store) {
		now := noon
		s := delivery.New(delivery.Options{Store: st, Now: func() time.Time { return now }})
		tell(t, s, report{Kind: waybill.ReportBuild, Run: "1", ImageTag: "v1.04", Service: "self-test", Commit: "6nbe500"}, report{Kind: waybill.ReportConfig, Run: "2", ImageTag: "v1.04", Ring: "dev", ConfigCommit: "706685f"})
		before := contents(t, st)
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				if took, err := s.SelfTest(context.Background(), waybill.Principal{Name: "ci"}); err != nil || took <= 0 {
					t.Errorf("self-test: %s, %v", took, err)
				}
			})
		}
		all.Wait()
		same := func(when string) {
			t.Helper()
			after := contents(t, st)
			for k, v := range before {
				if after[k] != v {
					t.Errorf("%s: %s was %s and is %s", when, k, v, after[k])
				}
			}
			if len(after) != len(before) {
				t.Errorf("%s: %d rows, want %d", when, len(after), len(before))
			}
		}
		same("after self-tests")
		// What a server left behind that ended in the middle is hidden, and goes with the next one.
		old := fmt.Sprintf("%012x", noon.Add(-2*time.Hour).UnixMilli())
		c, id := &store.Commit{}, fmt.Sprintf("self-test~%s-%s-7000-8000-000000000000", old[:8], old[8:])
		for k, v := range before {
			table, key, _ := cutBlank(k)
			if table == "delivery_head" {
				key = id
			} else {
				key = id + key[len("default"):]
			}
			c.Puts = append(c.Puts, store.Put{Table: table, Key: key, Rev: store.AnyRev, Val: json.RawMessage(v)})
		}
		if err := st.Commit(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if names, err := s.DeliveryPartitions(t.Context()); err != nil || len(names) != 1 {
			t.Errorf("partitions are %q, %v", names, err)
		}
		if _, err := s.SelfTest(t.Context(), waybill.Principal{}); err != nil {
			t.Error(err)
		}
		if p, err := s.Deployments(t.Context(), waybill.DeploymentFilter{}); err != nil || len(p.Items) != 1 {
			t.Errorf("%d rows, %v", len(p.Items), err)
		}
		for k := range contents(t, st) {
			if _, key, _ := cutBlank(k); len(key) > 9 && key[:9] == "self-test" {
				t.Errorf("%s was left", k)
			}
		}
		if _, err := s.Report(t.Context(), report{Kind: waybill.ReportBuild, ImageTag: "a:1", Partition: " self-test~x"}, waybill.Principal{}); waybill.KindOf(err) != waybill.KindInvalid {
			t.Errorf("anybody reports to a self-test: %v", err)
		}
	})
}

func cutBlank(s string) (table, key string, ok bool) {
	for i := range s {
		if s[i] == ' ' {
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}
