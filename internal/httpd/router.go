package httpd

import (
	"errors"
	"net/http"
	"strings"

	"github.com/waybill-run/waybill"
	apispec "github.com/waybill-run/waybill/api"
	"github.com/waybill-run/waybill/internal/httpd/openapi"
)

// unitRight is what the token of an attempt opens.
type unitRight int

const (
	unitNone unitRight = iota // nothing
	unitAny                   // the operation
	unitOwn                   // the operation on that very attempt, and only such tokens open it
)

// operation says who may call one operation of the contract, and how its use
// is audited.
type operation struct {
	id   string
	need waybill.Role // empty: anyone, without a look at credentials
	unit unitRight
	// action is its name in the audit log; empty for operations that change
	// nothing. Of those with quiet only refusals are audited: what they do stands
	// on the timeline of the run or in the version of the object, or the service
	// audits it in the same commit.
	action string
	quiet  bool
	// early: answered before the store is open.
	early bool
}

// operations is the one table of rights, by method and path of the contract.
var operations = map[string]operation{
	"GET /health":  {id: "getHealth", early: true},
	"GET /version": {id: "getVersion", early: true},

	"GET /healthz": {id: "getHealthz", early: true},
	"GET /readyz":  {id: "getReadyz", early: true},

	"GET /metrics": {id: "getMetrics", need: waybill.RoleViewer},

	"GET /api/v1/stats/runs": {id: "getRunStats", need: waybill.RoleViewer},

	"GET /api/v1/notifications":              {id: "listNotifications", need: waybill.RoleViewer},
	"GET /api/v1/notifications/{name}":       {id: "getNotification", need: waybill.RoleViewer},
	"PUT /api/v1/notifications/{name}":       {id: "applyNotification", need: waybill.RoleAdmin, action: "notification.apply"},
	"DELETE /api/v1/notifications/{name}":    {id: "deleteNotification", need: waybill.RoleAdmin, action: "notification.delete"},
	"POST /api/v1/notifications/{name}/test": {id: "testNotification", need: waybill.RoleOperator, action: "notification.test"},

	"GET /api/v1/pipelines":              {id: "listPipelines", need: waybill.RoleViewer},
	"POST /api/v1/pipelines":             {id: "applyPipeline", need: waybill.RoleAdmin, action: "pipeline.apply"},
	"POST /api/v1/pipelines/validate":    {id: "validatePipeline", need: waybill.RoleViewer},
	"GET /api/v1/pipelines/{name}":       {id: "getPipeline", need: waybill.RoleViewer},
	"GET /api/v1/pipelines/{name}/graph": {id: "getPipelineGraph", need: waybill.RoleViewer},
	"POST /api/v1/pipelines/{name}/runs": {id: "startRun", need: waybill.RoleOperator, action: "run.start", quiet: true},

	"GET /api/v1/runs":               {id: "listRuns", need: waybill.RoleViewer},
	"GET /api/v1/runs/{run}":         {id: "getRun", need: waybill.RoleViewer},
	"GET /api/v1/runs/{run}/logs":    {id: "getRunLogs", need: waybill.RoleViewer},
	"GET /api/v1/runs/{run}/events":  {id: "getRunEvents", need: waybill.RoleViewer},
	"POST /api/v1/runs/{run}/cancel": {id: "cancelRun", need: waybill.RoleOperator, action: "run.cancel"},
	"POST /api/v1/runs/{run}/retry":  {id: "retryRun", need: waybill.RoleOperator, action: "run.retry"},
	"POST /api/v1/runs/{run}/pause":  {id: "pauseRun", need: waybill.RoleOperator, action: "run.pause"},
	"POST /api/v1/runs/{run}/resume": {id: "resumeRun", need: waybill.RoleOperator, action: "run.resume"},
	"GET /api/v1/runs/{run}/trace":   {id: "traceRun", need: waybill.RoleViewer},
	"GET /api/v1/slots":              {id: "listSlots", need: waybill.RoleViewer},
	// The step may want an admin, or one of some names.
	"POST /api/v1/runs/{run}/steps/{step}/approval": {id: "answerApproval", need: waybill.RoleOperator, action: "approval.answer"},

	"POST /api/v1/runs/{run}/steps/{step}/attempts/{attempt}/callback":  {id: "completeAttempt", need: waybill.RoleUnit, unit: unitOwn, action: "attempt.complete", quiet: true},
	"POST /api/v1/runs/{run}/steps/{step}/attempts/{attempt}/heartbeat": {id: "heartbeatAttempt", need: waybill.RoleUnit, unit: unitOwn, action: "attempt.heartbeat", quiet: true},
	"POST /api/v1/runs/{run}/steps/{step}/attempts/{attempt}/variables": {id: "setAttemptVariables", need: waybill.RoleUnit, unit: unitOwn, action: "attempt.variables", quiet: true},

	"GET /api/v1/buckets":                           {id: "listBuckets", need: waybill.RoleViewer},
	"GET /api/v1/buckets/{bucket}":                  {id: "getWatchedBucket", need: waybill.RoleViewer},
	"POST /api/v1/buckets/{bucket}/scan":            {id: "scanBucket", need: waybill.RoleOperator, action: "bucket.scan"},
	"GET /api/v1/sources":                           {id: "listSources", need: waybill.RoleViewer},
	"GET /api/v1/buckets/{bucket}/objects":          {id: "listObjects", need: waybill.RoleViewer, unit: unitAny},
	"PUT /api/v1/buckets/{bucket}/objects/{key}":    {id: "putObject", need: waybill.RoleOperator, unit: unitAny, action: "object.put", quiet: true},
	"GET /api/v1/buckets/{bucket}/objects/{key}":    {id: "getObject", need: waybill.RoleViewer, unit: unitAny},
	"HEAD /api/v1/buckets/{bucket}/objects/{key}":   {id: "headObject", need: waybill.RoleViewer, unit: unitAny},
	"GET /api/v1/buckets/{bucket}/trace/{key}":      {id: "traceObject", need: waybill.RoleViewer},
	"DELETE /api/v1/buckets/{bucket}/objects/{key}": {id: "deleteObject", need: waybill.RoleOperator, action: "object.delete"},

	"POST /api/v1/hooks/{pipeline}":                     {id: "callHook", action: "hook.deliver", quiet: true},
	"POST /api/v1/hooks/{pipeline}/{name}":              {id: "callNamedHook", action: "hook.deliver", quiet: true},
	"POST /api/v1/events":                               {id: "publishEvents", need: waybill.RoleOperator, unit: unitAny, action: "event.publish", quiet: true},
	"GET /api/v1/schedules":                             {id: "listSchedules", need: waybill.RoleViewer},
	"GET /api/v1/schedules/{pipeline}/{number}":         {id: "getSchedule", need: waybill.RoleViewer},
	"POST /api/v1/schedules/{pipeline}/{number}/pause":  {id: "pauseSchedule", need: waybill.RoleOperator, action: "schedule.pause"},
	"POST /api/v1/schedules/{pipeline}/{number}/resume": {id: "resumeSchedule", need: waybill.RoleOperator, action: "schedule.resume"},

	"POST /api/v1/deliveries/reports": {id: "reportDelivery", need: waybill.RoleReporter, unit: unitAny, action: "delivery.report", quiet: true},
	// Who may send is the source's to say; see the handler.
	"POST /api/v1/deliveries/self-test":    {id: "testDeliveries", need: waybill.RoleReporter, action: "delivery.self-test"},
	"POST /ingest/{source}":                {id: "ingestDelivery", action: "delivery.ingest", quiet: true},
	"GET /api/v1/deliveries/sources":       {id: "listIngestSources", need: waybill.RoleViewer},
	"GET /api/v1/deliveries/providers":     {id: "listDeliveryProviders", need: waybill.RoleViewer},
	"GET /api/v1/deliveries/received":      {id: "listReceived", need: waybill.RoleViewer},
	"GET /api/v1/deliveries/received/{id}": {id: "getReceived", need: waybill.RoleViewer},
	"GET /api/v1/deliveries/partitions":    {id: "listDeliveryPartitions", need: waybill.RoleViewer},
	"GET /api/v1/deliveries/trace":         {id: "traceDelivery", need: waybill.RoleViewer},
	"GET /api/v1/deliveries/matrix":        {id: "getDeliveryMatrix", need: waybill.RoleViewer},
	"GET /api/v1/deliveries/diff":          {id: "diffRings", need: waybill.RoleViewer},
	"GET /api/v1/deliveries/lag":           {id: "lagOfRing", need: waybill.RoleViewer},
	"GET /api/v1/deliveries/rollbacks":     {id: "listRollbacks", need: waybill.RoleViewer},
	"GET /api/v1/deliveries/dora":          {id: "measureDelivery", need: waybill.RoleViewer},
	"GET /api/v1/deliveries/unlinked":      {id: "listUnlinked", need: waybill.RoleViewer},
	"GET /api/v1/deliveries/alerts":        {id: "listDeliveryAlerts", need: waybill.RoleViewer},
	"POST /api/v1/deliveries/prune":        {id: "pruneDeliveries", need: waybill.RoleOperator, action: "delivery.prune"},
	"POST /api/v1/deliveries/rebuild":      {id: "rebuildDeliveries", need: waybill.RoleOperator, action: "delivery.rebuild"},
	"GET /api/v1/deployments":              {id: "listDeployments", need: waybill.RoleViewer},
	"GET /api/v1/deployments/{id}":         {id: "getDeployment", need: waybill.RoleViewer},

	"GET /spektate/api/deployments": {id: "listSpektateDeployments", need: waybill.RoleViewer},
	"GET /spektate/api/health":      {id: "getSpektateHealth", need: waybill.RoleViewer},
	"GET /spektate/api/version":     {id: "getSpektateVersion", early: true},

	"GET /api/v1/runs/{run}/steps/{step}/files/{output}": {id: "getOutputFile", need: waybill.RoleViewer},
	"GET /api/v1/units":                   {id: "listUnits", need: waybill.RoleViewer},
	"GET /api/v1/images":                  {id: "listImages", need: waybill.RoleViewer},
	"POST /api/v1/images":                 {id: "loadImage", need: waybill.RoleAdmin, action: "image.load"},
	"DELETE /api/v1/images":               {id: "removeImage", need: waybill.RoleOperator, action: "image.remove"},
	"POST /api/v1/images/prune":           {id: "pruneImages", need: waybill.RoleOperator, action: "image.prune"},
	"GET /api/v1/queues":                  {id: "listQueues", need: waybill.RoleViewer},
	"GET /api/v1/queues/{topic}/messages": {id: "listMessages", need: waybill.RoleViewer},
	"GET /api/v1/queues/{topic}/dead":     {id: "listDeadLetters", need: waybill.RoleViewer},
	"POST /api/v1/queues/{topic}/redrive": {id: "redriveQueue", need: waybill.RoleOperator, action: "queue.redrive"},
	"POST /api/v1/queues/{topic}/purge":   {id: "purgeQueue", need: waybill.RoleOperator, action: "queue.purge"},
	"GET /api/v1/queues/{topic}/dump":     {id: "dumpQueue", need: waybill.RoleAdmin},
	"POST /api/v1/queues/{topic}/feed":    {id: "feedQueue", need: waybill.RoleAdmin, action: "queue.feed"},
	"POST /api/v1/queues/{topic}/pause":   {id: "pauseQueue", need: waybill.RoleOperator, action: "queue.pause"},
	"POST /api/v1/queues/{topic}/resume":  {id: "resumeQueue", need: waybill.RoleOperator, action: "queue.resume"},

	"GET /api/v1/whoami": {id: "getWhoami", need: waybill.RoleViewer, unit: unitAny},

	"GET /api/v1/tokens":            {id: "listTokens", need: waybill.RoleAdmin},
	"POST /api/v1/tokens":           {id: "createToken", need: waybill.RoleAdmin, action: "token.create", quiet: true},
	"DELETE /api/v1/tokens/{id}":    {id: "revokeToken", need: waybill.RoleAdmin, action: "token.revoke", quiet: true},
	"GET /api/v1/secrets":           {id: "listSecrets", need: waybill.RoleAdmin},
	"PUT /api/v1/secrets/{name}":    {id: "setSecret", need: waybill.RoleAdmin, action: "secret.set", quiet: true},
	"DELETE /api/v1/secrets/{name}": {id: "deleteSecret", need: waybill.RoleAdmin, action: "secret.delete", quiet: true},
	"POST /api/v1/secrets/rekey":    {id: "rekeySecrets", need: waybill.RoleAdmin, action: "secret.rekey", quiet: true},
	"POST /api/v1/project/reload":   {id: "reloadProject", need: waybill.RoleOperator, action: "project.reload"},
	"GET /api/v1/schemas/{kind}":    {id: "getSchema", need: waybill.RoleViewer},
	"POST /api/v1/backup":           {id: "createBackup", need: waybill.RoleAdmin, action: "backup"},
	"GET /api/v1/doctor":            {id: "getDoctor", need: waybill.RoleAdmin},
	"GET /api/v1/audit":             {id: "listAuditRecords", need: waybill.RoleAdmin},
}

// router is the mux that the generated code registers its routes with. It puts
// the look at credentials in front of each, and lets object keys hold slashes,
// which a path of an OpenAPI document cannot say.
type router struct {
	mux *http.ServeMux
	s   *Server
}

func (m *router) ServeHTTP(w http.ResponseWriter, r *http.Request) { m.mux.ServeHTTP(w, r) }

// HandleFunc registers a route of the contract. A route without a row in the
// table is a defect that shows as soon as a server is made.
func (m *router) HandleFunc(pattern string, h func(http.ResponseWriter, *http.Request)) {
	op, ok := operations[pattern]
	if !ok {
		panic("httpd: no rights are declared for " + pattern)
	}
	if rest, ok := strings.CutSuffix(pattern, "/{key}"); ok {
		pattern = rest + "/{key...}"
	}
	m.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { m.s.admit(w, r, op, h) })
}

// routes returns the handler of every path.
func (s *Server) routes() http.Handler {
	m := &router{mux: http.NewServeMux(), s: s}
	openapi.HandlerWithOptions(api{s}, openapi.StdHTTPServerOptions{
		BaseRouter: m,
		ErrorHandlerFunc: func(w http.ResponseWriter, r *http.Request, err error) {
			s.fail(w, r, parameterError(err))
		},
	})
	for pattern, h := range map[string]http.HandlerFunc{"GET /{$}": s.page, "GET /api/v1/openapi.yaml": s.contract} {
		m.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if unitsOnly(r) {
				s.fail(w, r, waybill.E(waybill.KindNotFound, "there is nothing here for units"))
				return
			}
			h(w, r)
		})
	}
	m.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { s.noRoute(m.mux, w, r) })
	return m
}

// parameterError names the parameter that the generated code could not read.
func parameterError(err error) error {
	var format *openapi.InvalidParamFormatError
	if errors.As(err, &format) {
		return waybill.E(waybill.KindMalformed, "parameter %s has the wrong form", format.ParamName)
	}
	return waybill.E(waybill.KindMalformed, "%s", err.Error())
}

// noRoute answers for paths that nobody serves, and for methods that a path
// does not have.
func (s *Server) noRoute(mux *http.ServeMux, w http.ResponseWriter, r *http.Request) {
	var allow []string
	for _, method := range []string{"GET", "HEAD", "PUT", "POST", "DELETE"} {
		probe := &http.Request{Method: method, URL: r.URL, Host: r.Host}
		if _, pattern := mux.Handler(probe); pattern != "/" && pattern != "" {
			allow = append(allow, method)
		}
	}
	if len(allow) == 0 {
		s.fail(w, r, waybill.E(waybill.KindNotFound, "there is nothing at %s", shorten(r.URL.Path, 200)))
		return
	}
	w.Header().Set("Allow", strings.Join(allow, ", "))
	s.fail(w, r, &statusError{http.StatusMethodNotAllowed,
		waybill.E(waybill.KindUnsupported, "method %s is not served here, only %s", shorten(r.Method, 20), strings.Join(allow, ", "))})
}

// contract is the contract of this API. It says nothing of this server, so it needs no
// credentials.
func (s *Server) contract(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/yaml")
	_, _ = w.Write(apispec.Spec)
}

// page is the first page, until there is a dashboard.
func (s *Server) page(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write([]byte(firstPage))
}

const firstPage = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Waybill</title>
<h1>Waybill</h1>
<p>This server runs work on compute that exists only while it is needed, and remembers everything.</p>
<ul>
<li><a href="/health">Health</a></li>
<li><a href="/version">Version</a></li>
<li><a href="/api/v1/runs">Runs</a>, <a href="/api/v1/pipelines">pipelines</a>, <a href="/api/v1/queues">queues</a>, <a href="/api/v1/buckets">buckets</a></li>
</ul>
</html>
`
