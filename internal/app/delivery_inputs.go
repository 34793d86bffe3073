package app

import (
	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/inbound"
	"github.com/waybill-run/waybill/internal/delivery/inbound/argocd"
	"github.com/waybill-run/waybill/internal/delivery/inbound/cdevents"
	"github.com/waybill-run/waybill/internal/delivery/inbound/connector"
	"github.com/waybill-run/waybill/internal/delivery/inbound/flux"
	"github.com/waybill-run/waybill/internal/delivery/inbound/github"
	"github.com/waybill-run/waybill/internal/delivery/inbound/gitlab"
	"github.com/waybill-run/waybill/internal/delivery/inbound/native"
)

// deliveryFormats are those of what tools of deliveries send.
func deliveryFormats() []inbound.Format {
	return []inbound.Format{native.Format{}, flux.Format{}, argocd.Format{}, cdevents.Format{}, github.Format{}, gitlab.Format{}, connector.Format{}}
}

// openIngest makes the way in for what tools of deliveries send. Sources follow the
// settings as they change.
func (s *Server) openIngest() *inbound.Inbound {
	return inbound.New(inbound.Options{
		Store: s.store, Deliveries: s.deliveries, Formats: deliveryFormats(), Secret: s.secrets.Secret, Mask: s.c.Known.String, Logger: s.log,
		Sources: func() []inbound.Source {
			var out []inbound.Source
			for _, x := range s.project.Settings().Ingest {
				out = append(out, inbound.Source{
					Name: x.Name, Format: x.Format, Secret: x.Secret, Token: x.Token, Partition: x.Partition, Cluster: x.Cluster, Ring: x.Ring, Stage: waybill.Stage(x.Stage),
				})
			}
			return out
		},
	})
}
