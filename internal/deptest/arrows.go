package deptest

// Frequent answers to "where else?".
const (
	inApp      = "wire the two together in internal/app, or declare the small interface you need in this package"
	inContract = "put what all implementations need into the contract or its test suite; wire the rest in internal/app"
	inRoot     = "a noun that several packages share belongs in the root package, the wiring in internal/app"
)

// Arrows are the imports of this module. Arrows point inward: from adapters to
// contracts, from contracts to nouns.
var Arrows = []Row{
	{
		Dir:     "",
		Why:     "the nouns, contracts and error kinds that everything shares; it does no I/O, so it can depend on nothing",
		Instead: "code that does something goes to the package under internal that does such things",
	},
	{
		Dir:     "api",
		Why:     "the contract of the HTTP API as a file",
		Instead: "code belongs in internal/httpd or in client",
	},
	{
		Dir: "client", May: []string{""}, Modules: []string{"github.com/oapi-codegen/runtime"},
		Why:     "imported by other people's programs, which must not take the server with it",
		Instead: "what only the command line needs belongs in internal/cli; what the server knows travels through the API",
	},
	{
		Dir: "cmd/*", May: []string{"internal/app", "internal/cli"},
		Why:     "main, which does nothing but call",
		Instead: "commands that talk to a server belong in internal/cli, those that are one in internal/app",
	},
	{
		Dir: "facet", May: []string{"facet/internal/disk", "facet/internal/segment"},
		Modules: []string{"golang.org/x/sys"},
		Why:     "a public engine that other people's programs can use without Waybill",
		Instead: "what ties it to the catalog belongs in internal/catalog",
	},
	{
		Dir: "facet/internal/*", May: []string{"facet/internal/disk"},
		Modules: []string{"github.com/RoaringBitmap/roaring/v2", "github.com/klauspost/compress/zstd", "golang.org/x/sys"},
		Why:     "the files of the facet engine, which know ordinals and bytes and nothing of schemas or queries",
		Instead: "what a query means belongs in facet",
	},
	{
		Dir: "facet/facettest", May: []string{"facet", "facet/memory"}, Modules: []string{"*"},
		Why:     "the suite, which compares every index with the one that is its definition",
		Instead: "what is about one implementation belongs in its own tests",
	},
	{
		Dir: "facet/*", May: []string{"facet"}, Modules: []string{"*"},
		Why:     "the suite or an implementation of the facet engine",
		Instead: "what ties it to the catalog belongs in internal/catalog",
	},
	{
		Dir:     "examples/*",
		Why:     "a project as a user would write it, embedded",
		Instead: "what runs it belongs in internal/demo",
	},
	{
		Dir:     "examples/containers/crunch",
		Why:     "what an example puts into a container: it knows nothing of this module",
		Instead: "what runs it belongs in conformance/examples",
	},
	{
		Dir: "conformance/*", May: []string{"", "client", "internal/app", "internal/auth/oidc/oidctest", "internal/cli", "internal/fault", "internal/httpd/openapitest", "internal/runner/container", "internal/runner/dockertest", "internal/runner/registrytest", "internal/store/postgres/pgtest"}, Modules: []string{"*"},
		Why:     "tests that see the program from outside; app and cli are imported only so that go test knows what the result depends on",
		Instead: "use package client as everybody does; a test that needs the inside belongs beside the package it tests",
	},

	// The one that sees everything.
	{
		Dir: "internal/app", May: []string{"*"}, Modules: []string{"github.com/spf13/cobra"},
		Why:     "the wiring",
		Instead: "the package that needs the module should hide it from the wiring",
	},

	// Commands that bring a server along, which they are given.
	{
		Dir: "internal/demo", May: []string{"", "client", "examples/tour"}, Modules: []string{"github.com/spf13/cobra", "golang.org/x/term"},
		Why:     "does what a user would do, through the client; the server is handed in",
		Instead: inApp,
	},
	{
		Dir: "internal/loadtest", May: []string{"", "client", "internal/queue", "internal/store"},
		Modules: []string{"github.com/jackc/pgx/v5", "github.com/spf13/cobra", "golang.org/x/term"},
		Why:     "measures what a user would notice, through the client, and a store alone through its contract; server and stores are handed in, a scratch schema in PostgreSQL it makes itself",
		Instead: inApp,
	},
	{
		Dir: "internal/facetcli", May: []string{"", "facet", "facet/facetbench", "facet/facettest", "facet/memory", "facet/opensearch", "facet/postgres"},
		Modules: []string{"github.com/spf13/cobra", "golang.org/x/sync", "golang.org/x/term"},
		Why:     "the facet engine as a tool, with every implementation of it, and without a server",
		Instead: "what a library needs belongs in facet, what a server needs in internal/catalog",
	},

	// What makes things happen.
	{
		Dir: "internal/engine", May: []string{"", "internal/blob", "internal/fault", "internal/mask", "internal/pipeline", "internal/queue", "internal/runner", "internal/store"},
		Why:     "policy over contracts: it must run the same over every store and runner, so it knows none of them by name",
		Instead: inApp,
	},
	{
		Dir: "internal/rehearsal", May: []string{"", "internal/blob", "internal/engine", "internal/pipeline", "internal/runner", "internal/runner/sim", "internal/schema", "internal/store"},
		Modules: []string{"github.com/goccy/go-yaml"},
		Why:     "tries pipelines out on the real engine; the runner that stands for all others is simulated by design, store and blobs are handed in",
		Instead: inApp,
	},
	{
		Dir: "internal/arrival", May: []string{"", "internal/object", "internal/pipeline", "internal/project", "internal/queue", "internal/store"},
		Why:     "turns what arrived into runs; the engine is handed to it as a function",
		Instead: inApp,
	},
	{
		Dir: "internal/watch", May: []string{"", "internal/cloud", "internal/fault", "internal/object", "internal/queue", "internal/store"},
		Why:     "finds what arrives elsewhere and puts it as objects, over the contract of buckets; it knows no cloud by name",
		Instead: inApp,
	},
	{
		Dir: "internal/schedule", May: []string{"", "internal/arrival", "internal/pipeline", "internal/project", "internal/queue", "internal/store"},
		Why:     "keeps nominal times in the store and fires them; what a trigger makes of an event is the business of arrival",
		Instead: inApp,
	},
	{
		Dir: "internal/intake", May: []string{"", "internal/arrival", "internal/fault", "internal/source"},
		Why:     "takes messages from the contract of sources to what they start; it knows no broker by name",
		Instead: inApp,
	},
	{
		Dir: "internal/source", May: []string{""},
		Why:     "a contract, imported by all who use it and all who implement it",
		Instead: inContract,
	},
	{
		Dir: "internal/source/*test", May: []string{"", "internal/source"}, Modules: []string{"*"},
		Why:     "the suite that every source passes, and brokers for tests",
		Instead: inContract,
	},
	{
		Dir: "internal/source/*", May: []string{"", "internal/source"}, Modules: []string{"*"},
		Why:     "an implementation, which knows its contract and no sibling",
		Instead: inContract,
	},
	{
		Dir: "internal/object", May: []string{"", "internal/blob", "internal/queue", "internal/store"},
		Why:     "named content over the contracts of rows and blobs; it announces arrivals and does not know who listens",
		Instead: inApp,
	},
	{
		Dir: "internal/project", May: []string{"", "internal/netguard", "internal/object", "internal/pipeline", "internal/queue", "internal/schema", "internal/store"}, Modules: []string{"github.com/fsnotify/fsnotify", "github.com/goccy/go-yaml"},
		Why:     "definitions and settings, from a folder and the API, kept in the store; what a bucket may be called is the objects' rule",
		Instead: inApp,
	},
	{
		Dir: "internal/feed", May: []string{"", "internal/store"},
		Why:     "reads the event log over the store's contract; what follows from events is the handler's",
		Instead: inApp,
	},
	{
		Dir: "internal/lineage", May: []string{"", "internal/arrival", "internal/object"},
		Why:     "reads what arrivals, objects and runs remember of each other; the engine is handed to it",
		Instead: inApp,
	},
	{
		Dir: "internal/stats", May: []string{"", "internal/feed", "internal/store"},
		Why:     "counts made from the event log",
		Instead: inApp,
	},
	{
		Dir: "internal/notify", May: []string{"", "internal/feed", "internal/queue", "internal/store"}, Modules: []string{"github.com/wneessen/go-mail"},
		Why:     "tells others of what the event log says; runs, pipelines and secrets are handed in",
		Instead: inApp,
	},
	{
		Dir: "internal/delivery", May: []string{"", "internal/store"},
		Why:     "folds reports into deployments over the store; what a provider's report looks like is not its business",
		Instead: "a package under internal/delivery for each provider or format, which makes reports",
	},
	{
		Dir: "internal/delivery/runs", May: []string{"", "internal/feed", "internal/pipeline", "internal/queue", "internal/store"},
		Why:     "makes reports of what the event log says of runs; the engine knows nothing of it",
		Instead: inApp,
	},
	{
		Dir: "internal/delivery/inbound", May: []string{"", "internal/store"},
		Why:     "a contract of formats, and what does the same for all of them; it knows none by name",
		Instead: inContract,
	},
	{
		Dir: "internal/delivery/inbound/*test", May: []string{"", "internal/delivery/inbound"},
		Why:     "the suite that every format passes",
		Instead: inContract,
	},
	{
		Dir: "internal/delivery/inbound/*", May: []string{"", "internal/delivery", "internal/delivery/inbound"},
		Why:     "a format, which is pure, knows its contract and no sibling; delivery says what the words of providers mean",
		Instead: inContract,
	},
	{
		Dir: "internal/delivery/outbound", May: []string{"", "internal/delivery", "internal/queue", "internal/store"},
		Why:     "a contract of systems that are told of deliveries, and what plans and sends over the store; it knows none of them by name",
		Instead: inContract,
	},
	{
		Dir: "internal/delivery/outbound/*test", May: []string{"", "internal/delivery/outbound"},
		Why:     "the suite that every sink passes",
		Instead: inContract,
	},
	{
		Dir: "internal/delivery/outbound/*", May: []string{"", "internal/delivery/outbound"}, Modules: []string{"*"},
		Why:     "an implementation, which knows its contract and no sibling",
		Instead: inContract,
	},
	{
		Dir: "internal/delivery/provider", May: []string{"", "internal/netguard"},
		Why:     "a contract of the systems that are polled, and the client that all of them make calls with",
		Instead: inContract,
	},
	{
		Dir: "internal/delivery/provider/*test", May: []string{"", "internal/delivery/provider", "internal/netguard"},
		Why:     "the suite that every provider passes, and servers that answer as they do",
		Instead: inContract,
	},
	{
		Dir: "internal/delivery/provider/*", May: []string{"", "internal/delivery", "internal/delivery/provider"},
		Why:     "an implementation, which knows its contract and no sibling, and what the states of runs mean",
		Instead: inContract,
	},
	{
		Dir: "internal/delivery/poll", May: []string{"", "internal/delivery", "internal/delivery/outbound", "internal/delivery/provider", "internal/queue", "internal/store"},
		Why:     "asks providers, by their contract, what deployments lack, and writes back what became of them",
		Instead: inApp,
	},
	{
		Dir: "internal/delivery/deliverytest/print", May: []string{"internal/delivery/deliverytest"},
		Why:     "writes the data set for people and scripts",
		Instead: inRoot,
	},
	{
		Dir: "internal/delivery/ancestry", May: []string{"", "internal/delivery"}, Modules: []string{"github.com/go-git/go-git/v5"},
		Why:     "finds out which commits of manifests came of which, and reports it; providers are handed in",
		Instead: inApp,
	},
	{
		Dir: "internal/delivery/aztable", May: []string{""}, Modules: []string{"github.com/Azure/azure-sdk-for-go"},
		Why:     "reads rows of a table of Azure Storage; what they mean is said where they are reported",
		Instead: inApp,
	},
	{
		Dir: "internal/delivery/spektate", May: []string{""},
		Why:     "translates deployments into the shapes of an older service, for its API and for the command line",
		Instead: "whatever asks for deployments belongs in internal/httpd or internal/cli",
	},
	{
		Dir: "internal/delivery/deliverytest", May: []string{"", "internal/delivery", "internal/store", "internal/store/postgres", "internal/store/postgres/pgtest", "internal/store/sqlite"}, Modules: []string{"*"},
		Why:     "deliveries over every store, and data sets, for tests of everything that shows deliveries",
		Instead: inRoot,
	},
	{
		Dir: "internal/metrics", May: []string{"", "internal/queue", "internal/runner", "internal/store"}, Modules: []string{"github.com/prometheus/client_golang"},
		Why:     "stands before a store and runners and counts; nothing calls it to count",
		Instead: inApp,
	},
	{
		Dir: "internal/telemetry", May: []string{"", "internal/store"}, Modules: []string{"go.opentelemetry.io/otel"},
		Why:     "makes traces of what commits say has ended",
		Instead: inApp,
	},
	{
		Dir: "internal/auth", May: []string{"", "internal/store"},
		Why:     "tokens and the audit log, kept in the store",
		Instead: inApp,
	},
	{
		Dir: "internal/auth/oidc", May: []string{""}, Modules: []string{"github.com/coreos/go-oidc/v3", "github.com/go-jose/go-jose/v4"},
		Why:     "who holds a token of an identity provider; it knows no store and no HTTP of ours",
		Instead: inApp,
	},
	{
		Dir: "internal/auth/oidc/oidctest", Modules: []string{"github.com/go-jose/go-jose/v4"},
		Why:     "an identity provider for tests; it knows nothing of ours",
		Instead: "what a test needs of ours belongs in that test",
	},
	{
		Dir: "internal/login", May: []string{""}, Modules: []string{"github.com/coreos/go-oidc/v3", "golang.org/x/oauth2"},
		Why:     "how a person gets a token and where it is kept; the command line alone uses it",
		Instead: "what talks to a server belongs in internal/cli, through the client",
	},
	{
		Dir:     "internal/mask",
		Why:     "text in, text out; whatever writes text that a unit or a secret may have touched imports it",
		Instead: "it needs nothing: what is secret is told to it",
	},
	{
		Dir: "internal/secret", May: []string{"", "internal/store"}, Modules: []string{"filippo.io/age"},
		Why:     "values that never leave memory but for a unit; the less it knows the less can leak",
		Instead: "declare the method you need as an interface of your own; internal/app wires it",
	},
	{
		Dir: "internal/pipeline", May: []string{"", "internal/cron", "internal/expression", "internal/schema"}, Modules: []string{"cel.dev/cel-go", "github.com/goccy/go-yaml"},
		Why:     "a pure function from YAML to a checked plan; the command line validates with it where there is no server",
		Instead: "what a runner says of a step comes in through Options.Check; what needs a store belongs in internal/project",
	},
	{
		Dir: "internal/cron", Modules: []string{"github.com/adhocore/gronx"},
		Why:     "a pure function from an expression to the times it means, without clock or store",
		Instead: "what keeps times and starts runs belongs in internal/schedule",
	},
	{
		Dir: "internal/queue", May: []string{"", "internal/fault", "internal/store"},
		Why:     "claims, leases and verdicts over the store's contract; it must not know what its messages mean",
		Instead: "meaning belongs to the handler that the worker is given",
	},

	{
		Dir: "internal/backup", May: []string{"", "internal/fault"}, Modules: []string{"filippo.io/age", "github.com/klauspost/compress", "golang.org/x/sys"},
		Why:     "the form of backups, whatever they are of: it knows files and checksums, and no store",
		Instead: inApp,
	},
	{
		Dir: "internal/doctor", May: []string{""}, Modules: []string{"golang.org/x/sys"},
		Why:     "looks at the machine that a server runs on; the parts of a server look at themselves",
		Instead: inApp,
	},
	{
		Dir: "internal/fault", May: []string{"internal/store"},
		Why:     "points at which tests kill the program; whatever has such points imports it, so it knows next to nothing",
		Instead: "a fault of one implementation belongs in its own tests",
	},

	// Contracts, their suites and their implementations.
	{
		Dir: "internal/store", May: []string{""},
		Why:     "a contract, imported by all who use it and all who implement it",
		Instead: inContract,
	},
	{
		Dir: "internal/blob", May: []string{""},
		Why:     "a contract, imported by all who use it and all who implement it",
		Instead: inContract,
	},
	{
		Dir: "internal/runner", May: []string{"", "internal/mask", "internal/schema"},
		Why:     "a contract, imported by all who use it and all who implement it",
		Instead: inContract,
	},
	{
		Dir: "internal/cloud", May: []string{""},
		Why:     "a contract, imported by all who use it and all who implement it",
		Instead: inContract,
	},
	{
		Dir: "internal/cloud/*test", May: []string{"", "internal/cloud"}, Modules: []string{"*"},
		Why:     "the suite that every bucket passes, and servers that stand in for those of the clouds",
		Instead: inContract,
	},
	{
		Dir: "internal/cloud/portable", May: []string{"", "internal/cloud"}, Modules: []string{"gocloud.dev"},
		Why:     "what the object stores have in common; each of them hands in what differs",
		Instead: "what one store needs belongs in its own package",
	},
	{
		Dir: "internal/cloud/*", May: []string{"", "internal/cloud", "internal/cloud/portable"}, Modules: []string{"*"},
		Why:     "an implementation, which knows its contract and no sibling",
		Instead: inContract,
	},
	{
		Dir: "internal/store/*test", May: []string{"", "internal/store"}, Modules: []string{"github.com/google/go-cmp", "go.uber.org/goleak", "pgregory.net/rapid"},
		Why:     "the suite that every store passes, so it can know none of them",
		Instead: inContract,
	},
	{
		Dir: "internal/blob/*test", May: []string{"", "internal/blob"}, Modules: []string{"github.com/google/go-cmp"},
		Why:     "the suite that every blob store passes, so it can know none of them",
		Instead: inContract,
	},
	{
		Dir: "internal/runner/*test", May: []string{"", "internal/mask", "internal/runner", "internal/runner/container", "internal/runner/registrytest"},
		Modules: []string{"github.com/google/go-cmp", "github.com/google/go-containerregistry"},
		Why:     "the suite that every runner passes, so it can know none of them",
		Instead: inContract,
	},
	{
		Dir: "internal/queue/*test", May: []string{"", "internal/queue", "internal/store"}, Modules: []string{"github.com/google/go-cmp", "pgregory.net/rapid"},
		Why:     "the suite of the queue over a store that is given to it",
		Instead: inContract,
	},
	{
		Dir: "internal/store/postgres/pgtest", Modules: []string{"github.com/jackc/pgx/v5"},
		Why:     "gives tests a PostgreSQL",
		Instead: "what is about stores belongs in internal/store/storetest",
	},
	{
		Dir: "internal/store/sqlite", May: []string{"", "internal/store"}, Modules: []string{"modernc.org/sqlite"},
		Why:     "an implementation, which knows its contract and no sibling",
		Instead: inContract,
	},
	{
		Dir: "internal/store/postgres", May: []string{"", "internal/store"}, Modules: []string{"github.com/jackc/pgx/v5"},
		Why:     "an implementation, which knows its contract and no sibling",
		Instead: inContract,
	},
	{
		Dir: "internal/blob/*", May: []string{"", "internal/blob"}, Modules: []string{"golang.org/x/sys"},
		Why:     "an implementation, which knows its contract and no sibling",
		Instead: inContract,
	},
	{
		Dir: "internal/expression", May: []string{""}, Modules: []string{"cel.dev/cel-go"},
		Why:     "what expressions have in common wherever they are evaluated",
		Instead: "what an expression may refer to belongs where it is evaluated",
	},
	{
		Dir:     "internal/schema",
		Why:     "pieces of JSON Schemas, for whatever reads a file of a project",
		Instead: "what a file may hold is said where the file is read",
	},
	{
		Dir: "internal/footprint", Modules: []string{"golang.org/x/sys"},
		Why:     "gives an idle process's memory back; it knows of nothing but the process",
		Instead: "whoever knows that it is quiet calls it",
	},
	{
		Dir: "internal/netguard", May: []string{""},
		Why:     "which addresses may be called, for whatever calls them on behalf of a pipeline",
		Instead: "whoever calls brings its own client",
	},
	{
		Dir: "internal/runner/http", May: []string{"", "internal/expression", "internal/netguard", "internal/runner", "internal/schema"}, Modules: []string{"cel.dev/cel-go"},
		Why:     "an implementation, which knows its contract and no sibling; expressions over answers are its own",
		Instead: inContract,
	},
	{
		Dir: "internal/runner/container", May: []string{"", "internal/mask", "internal/runner", "internal/schema"}, Modules: []string{"github.com/google/go-containerregistry"},
		Why:     "what the runners of containers have in common; it starts nothing",
		Instead: "what is about one platform belongs in its runner",
	},
	{
		Dir: "internal/image", May: []string{"", "internal/runner", "internal/runner/container"},
		Modules: []string{"github.com/google/go-containerregistry", "github.com/opencontainers", "golang.org/x/sys", "github.com/klauspost/compress"},
		Why:     "images pulled, checked and unpacked, for a runner that has no daemon",
		Instead: "what is done with an image belongs in internal/runner/oci",
	},
	{
		Dir: "internal/runner/oci", May: []string{"", "internal/image", "internal/mask", "internal/runner", "internal/runner/container"},
		Modules: []string{"github.com/opencontainers", "golang.org/x/sys", "github.com/vishvananda", "github.com/google/nftables", "github.com/google/go-containerregistry"},
		Why:     "an implementation, which knows its contract, its images and no sibling",
		Instead: inContract,
	},
	{
		Dir: "internal/runner/docker", May: []string{"", "internal/mask", "internal/runner", "internal/runner/container", "internal/runner/docker/inside"},
		Modules: []string{"github.com/moby/moby", "github.com/docker", "github.com/containerd", "github.com/opencontainers", "github.com/google/go-containerregistry", "golang.org/x/sys"},
		Why:     "an implementation, which knows its contract and no sibling",
		Instead: inContract,
	},
	{
		Dir: "internal/runner/docker/inside", May: []string{"internal/runner"}, Modules: []string{"golang.org/x/sys", "github.com/google/go-cmp"},
		Why:     "the first process of a container; it knows nothing of engines",
		Instead: "what the server does belongs in internal/runner/docker",
	},
	{
		Dir: "internal/runner/docker/inside/*", May: []string{"internal/runner/docker/inside"},
		Why:     "main, which does nothing but call",
		Instead: "what it does belongs in internal/runner/docker/inside",
	},
	{
		Dir: "internal/runner/kubernetes/kubetest", Modules: []string{"k8s.io"},
		Why:     "a cluster for tests; it knows nothing of ours",
		Instead: "what a test needs of ours belongs in that test",
	},
	{
		Dir:     "internal/runner/aci/armtest",
		Why:     "Azure's resource manager for tests; it knows nothing of ours",
		Instead: "what a test needs of ours belongs in that test",
	},
	{
		Dir: "internal/runner/kubernetes", May: []string{"", "internal/mask", "internal/runner", "internal/runner/container"},
		Modules: []string{"k8s.io", "sigs.k8s.io", "github.com/google/go-containerregistry"},
		Why:     "an implementation, and the only package that knows client-go",
		Instead: inContract,
	},
	{
		Dir: "internal/runner/aci", May: []string{"", "internal/mask", "internal/runner", "internal/runner/container", "internal/schema"},
		Modules: []string{"github.com/Azure/azure-sdk-for-go/sdk", "github.com/google/go-containerregistry"},
		Why:     "an implementation, which knows its contract and no sibling",
		Instead: inContract,
	},
	{
		Dir: "internal/runner/*", May: []string{"", "internal/footprint", "internal/mask", "internal/runner"}, Modules: []string{"golang.org/x/sys"},
		Why:     "an implementation, which knows its contract and no sibling",
		Instead: inContract,
	},

	// The two faces.
	{
		Dir: "internal/httpd", May: []string{"", "api", "internal/delivery/spektate", "internal/httpd/openapi"},
		Why:     "answers requests over the service interfaces of the root package; it knows no store and no engine",
		Instead: "add a method to a service interface in service.go and implement it where the work is done",
	},
	{
		Dir: "internal/httpd/openapi", May: []string{""}, Modules: []string{"github.com/oapi-codegen/runtime"},
		Why:     "generated from api/openapi.yaml",
		Instead: "nothing is written here by hand",
	},
	{
		Dir: "internal/httpd/httpdtest", May: []string{"", "internal/httpd"}, Modules: []string{"*"},
		Why:     "services in memory, for tests of everything that speaks HTTP",
		Instead: inRoot,
	},
	{
		Dir: "internal/httpd/openapitest", May: []string{"api"}, Modules: []string{"*"},
		Why:     "holds answers against the contract of the API",
		Instead: inRoot,
	},
	{
		Dir: "internal/cli/delivery", May: []string{"", "client", "internal/delivery/spektate"}, Modules: []string{"github.com/goccy/go-yaml", "github.com/spf13/cobra", "golang.org/x/crypto", "golang.org/x/term"},
		Why:     "the command deployment; it speaks to servers through the client",
		Instead: "what works on this machine is handed in by internal/app; what the server knows gets an operation in api/openapi.yaml",
	},
	{
		Dir: "internal/cli", May: []string{"", "client", "internal/cli/delivery", "internal/cron", "internal/login"}, Modules: []string{"github.com/spf13/cobra", "golang.org/x/term"},
		Why:     "speaks to servers as everybody can, through the client, so that it needs nothing else of ours",
		Instead: "what works on this machine is handed in by internal/app; what the server knows gets an operation in api/openapi.yaml",
	},

	{
		Dir:     "internal/deptest",
		Why:     "this check",
		Instead: "it reads files and needs nothing",
	},
}
