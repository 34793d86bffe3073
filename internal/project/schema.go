package project

import (
	"reflect"
	"sort"
	"strings"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/netguard"
	"github.com/waybill-run/waybill/internal/schema"
)

// said is what the keys of waybill.yaml mean. A test holds it against the keys that
// are read.
var said = map[string]string{
	"name":      "Name of the project, shown to people.",
	"retention": "How long what is finished is kept.",
	"queue":     "How much work is accepted.",
	"units":     "What runs on this server.",
	"callback":  "Units that report by a callback.",
	"secrets":   "Where ${secret:NAME} is looked up.",
	"http":      "What steps with the runner http may call.",
	"telemetry": "Who is told what the server does.",
	"notify":    "Who is told of which runs.",
	"auth":      "Who may use the server besides holders of its own tokens.",
	"auth.oidc": "Identity providers whose tokens are taken (OpenID Connect).",
	"buckets":   "Buckets elsewhere that are watched, by the names they have here.",
	"runners":   "Where containers run.",
	"sources":   "Queues of other systems whose messages start pipelines, by the names they have here.",

	"retention.runs":      "Ended runs, their timelines and logs.",
	"retention.objects":   "Versions of objects after they were replaced; 0 keeps them.",
	"retention.current":   "Current versions of objects; 0 keeps them.",
	"queue.high_water":    "Messages in a topic above which new work is refused.",
	"units.max":           "Units at once on this server.",
	"units.log_cap":       "Bytes of log kept of a unit; the rest is counted and dropped.",
	"units.base_env":      "Variables of the server's environment that every unit gets.",
	"units.orphan_sweep":  "How often units are looked for that nobody owns.",
	"units.orphan_grace":  "How long a unit may be without an owner before it is removed.",
	"callback.grace":      "How long an owed callback may come after the unit's end, and how long a unit may go on after its callback.",
	"secrets.providers":   "Places that are asked, in this order.",
	"secrets.env_prefix":  "Beginning of the names of the variables that the provider env reads.",
	"secrets.file_dir":    "Folder whose files the provider file reads.",
	"http.deny":           "Addresses that are not called: addresses, networks, and the words " + strings.Join(netguard.Words(), ", ") + ".",
	"http.allow":          "Addresses that are called although they are denied.",
	"telemetry.otlp":      "Base URL of an OpenTelemetry collector that is sent traces.",
	"telemetry.pipelines": "Most names of pipelines in the labels of metrics.",
	"buckets.*.url":       "Where it is: file:///PATH, s3://NAME, azblob://NAME or gs://NAME.",
	"buckets.*.prefix":    "Only keys that begin with this are looked at.",
	"buckets.*.settle":    "How long a version must stay as it is before it is taken.",
	"buckets.*.poll":      "Pause between two listings.",
	"buckets.*.empty":     "What becomes of empty objects: skip or take.",
	"buckets.*.after":     "What becomes of an object that was taken: keep, delete, or move:PREFIX/.",
	"buckets.*.max_size":  "Larger objects are left alone.",
	"buckets.*.ignore":    "Patterns of keys that are left alone.",

	"deliveries":                          "What tools tell of deliveries, and who is told of them.",
	"deliveries.ingest":                   "Sources that tools send to, by the names in POST /ingest/NAME.",
	"deliveries.interval":                 "Pause between two looks at providers.",
	"deliveries.rows":                     "How many of the newest deployments of a partition are looked at.",
	"deliveries.calls":                    "Most calls to one provider in an interval; what is over waits for the next.",
	"deliveries.alerts.stuck":             "Time without news after which a deployment is stuck and a cluster unsynced or adrift; an hour when left out.",
	"deliveries.alerts.silent":            "Time after which a cluster that is not heard of is silent; a day when left out.",
	"deliveries.alerts":                   "When something about deliveries is wrong.",
	"deliveries.manifests":                "Repositories of manifests that are cloned for their history, by the names they have here.",
	"deliveries.manifests.*.repo":         "Address of the repository, or a folder of this machine.",
	"deliveries.manifests.*.user":         "User that goes with the token, where the host wants one.",
	"deliveries.manifests.*.token":        "What it is fetched with, as ${secret:NAME}.",
	"deliveries.providers":                "Providers that are polled for what deliveries lack, by the names they have here.",
	"deliveries.providers.*.kind":         "What it is: " + strings.Join(ProviderKinds, ", ") + ".",
	"deliveries.providers.*.url":          "Address of its pages; the public one of its kind when left out.",
	"deliveries.providers.*.api":          "Address of its API; found from url when left out.",
	"deliveries.providers.*.token":        "What calls are made with, as ${secret:NAME}; it needs to read code, pipelines and pull requests.",
	"deliveries.providers.*.project":      "ORGANIZATION/PROJECT of Azure DevOps, of runs whose repository does not tell.",
	"deliveries.providers.*.repositories": "Repositories that it is asked for, of which the last part can be *; all of its host when left out.",
	"deliveries.providers.*.partitions":   "Partitions whose deliveries are looked at; all when left out.",
	"deliveries.providers.*.stages":       "Stages whose runs are of this provider wherever the repository is: build, config, manifest.",
	"deliveries.providers.*.source":       "Repository of the source of deliveries that name none.",
	"deliveries.providers.*.config":       "Repository of the configuration of deliveries that name none.",
	"deliveries.providers.*.manifest":     "Repository of the manifests of deliveries that name none.",
	"deliveries.providers.*.tag_prefix":   "Beginning of the tags of manifests by which clusters tell where they are.",
	"deliveries.providers.*.status":       "What is written back: off, commit (a status of the source commit) or deployment (into an environment called like the ring).",
	"deliveries.ingest.*.format":          "What is sent: " + strings.Join(IngestFormats, ", ") + ". A source that is called like a format need not say.",
	"deliveries.ingest.*.secret":          "Requests must be signed with it, as ${secret:NAME}.",
	"deliveries.ingest.*.token":           "Requests must bring it in Authorization: Bearer, as ${secret:NAME}.",
	"deliveries.ingest.*.partition":       "The partition that its reports go to.",
	"deliveries.ingest.*.cluster":         "The one cluster that it speaks for.",
	"deliveries.ingest.*.ring":            "The ring that it speaks of.",
	"deliveries.ingest.*.stage":           "The stage of its runs that do not say: build, config or manifest.",
	"deliveries.cdevents":                 "A receiver of CDEvents that is told what becomes of deliveries.",
	"deliveries.cdevents.url":             "Where events go; without it nowhere.",
	"deliveries.cdevents.secret":          "Events are signed with it in X-Signature, as ${secret:NAME}.",
	"deliveries.cdevents.token":           "Sent in Authorization: Bearer, as ${secret:NAME}.",
	"deliveries.cdevents.source":          "context.source of the events; the server's address when left out.",
	"deliveries.traces":                   "Whether the collector of telemetry.otlp is sent a trace of each deployment: on or off.",

	"sources.*.kind":           "The system: rabbitmq or azure-queue.",
	"sources.*.url":            "Where it is, with credentials as ${secret:NAME}.",
	"sources.*.queue":          "Name of the queue there.",
	"sources.*.prefetch":       "Messages in work at once.",
	"sources.*.visibility":     "How long a message that was taken is hidden from others.",
	"sources.*.encoding":       "How messages are written: auto, text or base64.",
	"sources.*.max_deliveries": "Deliveries after which a message is given up.",
}

// shapes are the fields of the file by their paths, with * for names that the file
// chooses. Sections with such names make their fields as they are read, so one of each
// is read.
func (s *Settings) shapes() map[string]any {
	all := s.fields()
	r := &settingsReader{fields: s.fields(), at: map[string]place{}}
	r.file([]byte("buckets: {probe: {}}\nsources: {probe: {}}\ndeliveries: {ingest: {probe: {}}, providers: {probe: {}}, manifests: {probe: {}}}\n"))
	for path, field := range r.fields {
		all[strings.Replace(path, ".probe.", ".*.", 1)] = field
	}
	delete(all, "buckets")
	delete(all, "sources")
	delete(all, "deliveries.ingest")
	delete(all, "deliveries.providers")
	delete(all, "deliveries.manifests")
	return all
}

// Schema is the JSON Schema of waybill.yaml; runners are those of the settings of each
// runner.
func Schema(runners map[string]schema.Schema) schema.Schema {
	s := Default()
	root := section{}
	for path, field := range s.shapes() {
		root.put(strings.Split(path, "."), field)
	}
	out := root.schema("")
	out["$schema"], out["$id"], out["title"] = schema.Dialect, "https://waybill.run/schemas/settings.json", "Settings of a Waybill project (waybill.yaml)"
	out["$defs"] = map[string]schema.Schema{"notify": NotifySchema(), "oidc": oidcSchema(), "runners": RunnersSchema(runners)}
	return out
}

// section is an object of the file: fields and further sections by their keys.
type section map[string]any

func (s section) put(path []string, field any) {
	if len(path) == 1 {
		s[path[0]] = field
		return
	}
	sub, ok := s[path[0]].(section)
	if !ok {
		sub = section{}
		s[path[0]] = sub
	}
	sub.put(path[1:], field)
}

func (s section) schema(at string) schema.Schema {
	keys := map[string]schema.Schema{}
	for key, field := range s {
		path := strings.TrimPrefix(at+"."+key, ".")
		var x schema.Schema
		if sub, ok := field.(section); ok {
			x = sub.schema(path)
		} else {
			x = shape(path, field)
		}
		keys[key] = x.Doc(said[path])
	}
	if any, ok := keys["*"]; ok {
		return schema.Map(any)
	}
	return schema.Either(schema.Object(keys), schema.Schema{"type": "null"}).With("type", []string{"object", "null"})
}

func shape(path string, field any) schema.Schema {
	switch path {
	case "notify":
		return schema.List(schema.Ref("notify"))
	case "runners":
		return schema.Ref("runners")
	case "auth.oidc":
		return schema.List(schema.Ref("oidc"))
	case "secrets.providers":
		return schema.List(schema.Words(SecretProviders...)).With("default", SecretProviders)
	case "http.deny", "http.allow":
		return schema.Strings().With("examples", []any{[]string{"private", "10.0.0.0/8"}})
	case "deliveries.ingest.*.format":
		return schema.Words(IngestFormats...)
	case "deliveries.providers.*.kind":
		return schema.Words(ProviderKinds...)
	case "deliveries.providers.*.status":
		return schema.Words("off", "commit", "deployment")
	case "deliveries.providers.*.stages":
		return schema.List(schema.Words("build", "config", "manifest"))
	case "deliveries.ingest.*.stage":
		return schema.Words("build", "config", "manifest")
	case "deliveries.traces":
		return schema.Words("on", "off")
	case "buckets.*.empty":
		return schema.Words("skip", "take")
	case "sources.*.kind":
		return schema.Words(SourceRabbitMQ, SourceAzureQueue)
	case "sources.*.encoding":
		return schema.Words("auto", "text", "base64")
	}
	var s schema.Schema
	switch v := field.(type) {
	case *string:
		s = schema.Scalar()
		if *v != "" {
			s["default"] = *v
		}
	case *int:
		s = schema.Int(0, 1<<31-1).With("default", *v)
	case *int64:
		s = schema.Int(0, 1<<53).With("default", *v)
	case *size:
		s = schema.Size()
	case *Duration:
		s = schema.Either(schema.Duration(), schema.Schema{"const": 0}, schema.Schema{"const": "0"})
	case *[]string:
		s = schema.Strings()
	default:
		s = schema.Any() // a test fails over it
	}
	return s
}

// notifySaid is what the keys of a rule mean.
var notifySaid = map[string]string{
	"name":            "Name of the rule.",
	"on":              "What it is about.",
	"pipeline":        "Pattern that the names of pipelines must match, such as nightly-*.",
	"webhook":         "A URL that is told by POST.",
	"email":           "Mailboxes that are told.",
	"webhook.url":     "Where messages go.",
	"webhook.secret":  "Key that messages are signed with, as ${secret:NAME}.",
	"webhook.headers": "Further headers; values may be ${secret:NAME}.",
	"email.to":        "Addresses that are told.",
	"email.from":      "Address that messages come from.",
	"email.smtp":      "Mail server, as host:port.",
	"email.user":      "User name at the mail server.",
	"email.password":  "Password at the mail server, as ${secret:NAME}.",
	"email.starttls":  "Whether the connection must be encrypted.",
}

// NotifySchema is the JSON Schema of a rule of notifications.
func NotifySchema() schema.Schema {
	s := describeStruct(reflect.TypeFor[waybill.NotifyRule](), "")
	s["required"] = []string{"on"}
	return s
}

func describeStruct(t reflect.Type, at string) schema.Schema {
	keys := map[string]schema.Schema{}
	for i := range t.NumField() {
		key, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		path := strings.TrimPrefix(at+"."+key, ".")
		ft := t.Field(i).Type
		for ft.Kind() == reflect.Pointer {
			ft = ft.Elem()
		}
		var s schema.Schema
		switch {
		case path == "on":
			events := []string{}
			for _, e := range waybill.NotifyEvents() {
				events = append(events, string(e))
			}
			sort.Strings(events)
			s = schema.OneOrList(schema.Words(events...))
		case ft.Kind() == reflect.Struct:
			s = describeStruct(ft, path)
		case ft.Kind() == reflect.Bool:
			s = schema.Bool()
		case ft.Kind() == reflect.Slice:
			s = schema.OneOrList(schema.Text())
		case ft.Kind() == reflect.Map:
			s = schema.Map(schema.Text())
		default:
			s = schema.Text()
		}
		keys[key] = s.Doc(notifySaid[path])
	}
	return schema.Object(keys)
}
