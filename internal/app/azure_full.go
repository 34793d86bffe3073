//go:build !slim

package app

import (
	"context"
	"time"

	"github.com/waybill-run/waybill/internal/cli/delivery"
	"github.com/waybill-run/waybill/internal/cloud"
	"github.com/waybill-run/waybill/internal/cloud/azure"
	"github.com/waybill-run/waybill/internal/cloud/gcs"
	"github.com/waybill-run/waybill/internal/delivery/aztable"
	"github.com/waybill-run/waybill/internal/project"
	"github.com/waybill-run/waybill/internal/source"
	"github.com/waybill-run/waybill/internal/source/azurequeue"
)

// What a slim program leaves out of the clouds of Google and Azure.

// moreClouds are buckets there.
var moreClouds = map[string]cloud.Opener{gcs.Scheme: gcs.Open, azure.Scheme: azure.Open}

// azureQueue takes messages from a queue of Azure Storage.
func azureQueue(q *project.Source, address func(context.Context) (string, error)) source.Source {
	return azurequeue.New(azurequeue.Options{URL: address, Queue: q.Queue, Visibility: time.Duration(q.Visibility), Encoding: q.Encoding})
}

// leftOut says which settings need what this program lacks.
func leftOut(project.Settings) error { return nil }

// readLegacy reads the deployments that an older service kept in Azure Storage.
func readLegacy(ctx context.Context, o delivery.LegacyTable, f func(map[string]string) error) error {
	t := aztable.Table{Account: o.Account, Key: o.Key, Name: o.Table, Endpoint: o.Endpoint}
	return t.Rows(ctx, o.Partition, func(r aztable.Row) error { return f(r) })
}
