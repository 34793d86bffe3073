package inbound

import (
	"context"
	"strings"

	"github.com/waybill-run/waybill"
)

// complete finds what a note does not say itself: the image of a source commit, and
// whether a row has to begin before a cluster can be at it.
func (in *Inbound) complete(ctx context.Context, n *Note, by waybill.Principal) (*waybill.IngestReport, error) {
	r := &n.Report
	if r.Kind != waybill.ReportSync {
		return nil, nil
	}
	if err := in.spell(ctx, r); err != nil {
		return nil, err
	}
	if n.Commit == "" && !n.Begin {
		return nil, nil
	}
	var known []waybill.Deployment
	for _, ref := range []string{r.ImageDigest, r.ImageTag, n.Commit} {
		if ref == "" || len(known) > 0 {
			continue
		}
		traces, err := in.o.Deliveries.Trace(ctx, r.Partition, ref)
		if err != nil && !waybill.IsKind(err, waybill.KindNotFound) {
			return nil, err
		}
		for _, t := range traces {
			d := t.Deployment
			if r.Service == "" || d.Service == "" || strings.EqualFold(d.DisplayService(), waybill.DisplayService(r.Service)) || ref == r.ImageDigest {
				known = append(known, d)
			}
		}
	}
	if r.ImageTag == "" && r.ImageDigest == "" && r.ManifestCommit == "" {
		// The image of the commit, when there is just one.
		images := map[string]waybill.Deployment{}
		for _, d := range known {
			if d.ImageTag != "" || d.ImageDigest != "" {
				images[strings.ToLower(d.ImageTag)+" "+d.ImageDigest] = d
			}
		}
		switch {
		case len(images) == 1:
			for _, d := range images {
				r.ImageTag, r.ImageDigest, r.Service = d.ImageTag, d.ImageDigest, d.Service
			}
		case n.Fallback != "":
			r.ImageTag = n.Fallback
		default:
			return nil, waybill.E(waybill.KindInvalid, "no image of commit %.64s is known, or several are", n.Commit)
		}
	} else if len(known) > 0 && r.ImageDigest != "" {
		// Of a digest more is known than its sender may know.
		for _, d := range known {
			if r.ImageTag == "" && strings.EqualFold(d.ImageDigest, r.ImageDigest) {
				r.ImageTag = d.ImageTag
				if d.Service != "" {
					r.Service = d.Service
				}
			}
		}
	}
	if !n.Begin || r.Ring == "" {
		return nil, nil
	}
	if n.Report.Run == "" {
		r.Run = r.Provider + "-" + hashed(r.Ring, r.ImageTag, r.ImageDigest)[:12]
	}
	for _, d := range known {
		if strings.EqualFold(d.Ring, r.Ring) && (r.ImageTag == "" || d.ImageTag == "" || strings.EqualFold(d.ImageTag, r.ImageTag)) {
			if last := d.Manifest.Last(); !d.Direct || last == nil || !strings.EqualFold(last.Run, r.Run) {
				return nil, nil // others tell of its stages
			}
		}
	}
	begin := waybill.DeliveryReport{
		Kind: waybill.ReportManifest, Provider: r.Provider, Partition: r.Partition, Time: r.Time, Service: r.Service,
		ImageTag: r.ImageTag, ImageDigest: r.ImageDigest, Ring: r.Ring, Run: r.Run, URL: r.URL, Commit: n.Commit, SourceRepo: r.SourceRepo,
		Status: map[waybill.ClusterState]waybill.Outcome{waybill.ClusterPending: waybill.StatusRunning, waybill.ClusterFailed: waybill.StatusFailed}[r.ClusterState],
	}
	if begin.Status == "" {
		begin.Status = waybill.StatusSucceeded
	}
	return in.report(ctx, begin, by)
}

// spell writes a tag as it is known: clusters name images with the registry, pipelines
// often without.
func (in *Inbound) spell(ctx context.Context, r *waybill.DeliveryReport) error {
	if !strings.Contains(r.ImageTag, "/") {
		return nil
	}
	spellings := []string{r.ImageTag}
	host, rest, _ := strings.Cut(r.ImageTag, "/")
	if strings.ContainsAny(host, ".:") || host == "localhost" {
		spellings = append(spellings, rest)
	}
	spellings = append(spellings, r.ImageTag[strings.LastIndex(r.ImageTag, "/")+1:])
	for _, tag := range spellings {
		traces, err := in.o.Deliveries.Trace(ctx, r.Partition, tag)
		if err == nil && len(traces) > 0 && traces[0].Found == "image_tag" {
			r.ImageTag = tag
			return nil
		}
		if err != nil && !waybill.IsKind(err, waybill.KindNotFound) {
			return err
		}
	}
	return nil
}
