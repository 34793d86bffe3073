package client

import (
	"bytes"
	"context"
	"net/http"
	"strconv"

	"github.com/waybill-run/waybill"
)

// Health returns the server's state, also while it is starting or stopping.
func (c *Client) Health(ctx context.Context) (Health, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/health", nil)
	if err != nil {
		return Health{}, &Error{Kind: waybill.KindInvalid, Err: err}
	}
	res, err := c.http.Do(r)
	if err != nil {
		if ctx.Err() != nil {
			return Health{}, ctx.Err()
		}
		return Health{}, unreachable(c.base, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK && res.StatusCode != http.StatusServiceUnavailable {
		return Health{}, problem(res)
	}
	var h Health
	if err := decode(res.Body, &h); err != nil || h.Status == "" {
		return Health{}, &Error{Kind: waybill.KindUnavailable, Status: res.StatusCode, Detail: "the server answered " + res.Status + " and not its health", Err: err}
	}
	return h, nil
}

// Version returns which program the server is.
func (c *Client) Version(ctx context.Context) (Version, error) {
	return ask[Version](ctx, c, c.get("/version", nil))
}

// Pipelines returns a page of pipelines by name, without their YAML.
func (c *Client) Pipelines(ctx context.Context, p ListPipelinesParams) (PipelineList, error) {
	return ask[PipelineList](ctx, c, c.get("/api/v1/pipelines", values("limit", strconv.Itoa(p.Limit), "cursor", p.Cursor)))
}

// Pipeline returns one version of a definition, the newest when version is 0.
func (c *Client) Pipeline(ctx context.Context, name string, version int) (Pipeline, error) {
	return ask[Pipeline](ctx, c, c.get(path("/api/v1/pipelines/%s", name), values("version", strconv.Itoa(version))))
}

func (c *Client) definition(path string, yaml []byte) *request {
	return &request{method: http.MethodPost, path: path, body: bytes.NewReader(yaml), size: int64(len(yaml)),
		header: http.Header{"Content-Type": {"application/yaml"}}, again: true}
}

// ApplyPipeline stores a definition. An unchanged one makes no new version.
func (c *Client) ApplyPipeline(ctx context.Context, yaml []byte) (Pipeline, error) {
	return ask[Pipeline](ctx, c, c.definition("/api/v1/pipelines", yaml))
}

// ValidatePipeline checks a definition. What is wrong with it stands in the
// Problems of the error.
func (c *Client) ValidatePipeline(ctx context.Context, yaml []byte) (Pipeline, error) {
	return ask[Pipeline](ctx, c, c.definition("/api/v1/pipelines/validate", yaml))
}

// PipelineGraph draws the newest version as text, dot or mermaid.
func (c *Client) PipelineGraph(ctx context.Context, name, format string) (string, error) {
	res, err := c.open(ctx, c.get(path("/api/v1/pipelines/%s/graph", name), values("format", format)), nil)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(res.Body); err != nil {
		return "", &Error{Kind: waybill.KindUnavailable, Detail: "the drawing broke off: " + err.Error(), Err: err}
	}
	return b.String(), nil
}

// StartRun starts a run. Without a key one is made, so that a repetition after a
// lost answer does not start a second run.
func (c *Client) StartRun(ctx context.Context, pipeline string, s StartRun, key string) (Run, error) {
	if key == "" {
		key = waybill.NewSecret()
	}
	q, err := c.post(path("/api/v1/pipelines/%s/runs", pipeline), s, key)
	if err != nil {
		return Run{}, err
	}
	return ask[Run](ctx, c, q)
}

// Runs returns a page of runs, newest first.
func (c *Client) Runs(ctx context.Context, p ListRunsParams) (RunList, error) {
	return ask[RunList](ctx, c, c.get("/api/v1/runs", runsQuery(p)))
}

// Run returns a run with its steps and attempts.
func (c *Client) Run(ctx context.Context, id string) (RunDetail, error) {
	return ask[RunDetail](ctx, c, c.get(path("/api/v1/runs/%s", id), nil))
}

// CancelRun asks a run to end. With force the steps of always end too.
func (c *Client) CancelRun(ctx context.Context, id, reason string, force ...bool) (Run, error) {
	q, err := c.post(path("/api/v1/runs/%s/cancel", id), CancelRun{Reason: reason, Force: len(force) > 0 && force[0]}, "")
	if err != nil {
		return Run{}, err
	}
	q.again = true
	return ask[Run](ctx, c, q)
}

// RetryRun starts a new run like one that ended, from a step if that is named.
func (c *Client) RetryRun(ctx context.Context, id, from, key string) (Run, error) {
	if key == "" {
		key = waybill.NewSecret()
	}
	q, err := c.post(path("/api/v1/runs/%s/retry", id), RetryRun{From: from}, key)
	if err != nil {
		return Run{}, err
	}
	return ask[Run](ctx, c, q)
}

// Events returns a page of a run's timeline, oldest first.
func (c *Client) Events(ctx context.Context, run string, p GetRunEventsParams) (RecordList, error) {
	return ask[RecordList](ctx, c, c.get(path("/api/v1/runs/%s/events", run), values("limit", strconv.Itoa(p.Limit), "cursor", p.Cursor)))
}

// Buckets lists all buckets.
func (c *Client) Buckets(ctx context.Context) (BucketList, error) {
	return ask[BucketList](ctx, c, c.get("/api/v1/buckets", nil))
}

// Objects returns a page of a bucket's current versions by key.
func (c *Client) Objects(ctx context.Context, bucket string, p ListObjectsParams) (ObjectList, error) {
	return ask[ObjectList](ctx, c, c.get(path("/api/v1/buckets/%s/objects", bucket), values("prefix", p.Prefix, "limit", strconv.Itoa(p.Limit), "cursor", p.Cursor)))
}

// DeleteObject deletes an object.
func (c *Client) DeleteObject(ctx context.Context, bucket, key string) error {
	return c.ask(ctx, &request{method: http.MethodDelete, path: objectPath(bucket, key)}, nil)
}

// Queues describes all topics.
func (c *Client) Queues(ctx context.Context) (QueueList, error) {
	return ask[QueueList](ctx, c, c.get("/api/v1/queues", nil))
}

// Messages returns a page of the messages of a topic.
func (c *Client) Messages(ctx context.Context, topic string, p ListMessagesParams) (MessageList, error) {
	return ask[MessageList](ctx, c, c.get(path("/api/v1/queues/%s/messages", topic), values("limit", strconv.Itoa(p.Limit), "cursor", p.Cursor)))
}

// DeadLetters returns a page of the dead letters of a topic.
func (c *Client) DeadLetters(ctx context.Context, topic string, p ListDeadLettersParams) (MessageList, error) {
	return ask[MessageList](ctx, c, c.get(path("/api/v1/queues/%s/dead", topic), values("limit", strconv.Itoa(p.Limit), "cursor", p.Cursor)))
}

// Redrive sends dead letters again, all of the topic without ids, and returns how many.
func (c *Client) Redrive(ctx context.Context, topic string, ids ...string) (int64, error) {
	q, err := c.post(path("/api/v1/queues/%s/redrive", topic), Redrive{Ids: ids}, "")
	if err != nil {
		return 0, err
	}
	n, err := ask[Count](ctx, c, q)
	return n.Count, err
}

// Purge deletes the waiting messages of a topic, or its dead letters, and
// returns how many.
func (c *Client) Purge(ctx context.Context, topic string, dead bool) (int64, error) {
	q, err := c.post(path("/api/v1/queues/%s/purge", topic), Purge{Dead: dead}, "")
	if err != nil {
		return 0, err
	}
	n, err := ask[Count](ctx, c, q)
	return n.Count, err
}

// Pause stops a topic, or lets it go on.
func (c *Client) Pause(ctx context.Context, topic string, paused bool) error {
	verb := "/api/v1/queues/%s/pause"
	if !paused {
		verb = "/api/v1/queues/%s/resume"
	}
	return c.ask(ctx, &request{method: http.MethodPost, path: path(verb, topic), again: true}, nil)
}

// CreateToken makes an API token. Its secret is in the answer and nowhere else.
func (c *Client) CreateToken(ctx context.Context, t CreateToken, key string) (NewToken, error) {
	if key == "" {
		key = waybill.NewSecret()
	}
	q, err := c.post("/api/v1/tokens", t, key)
	if err != nil {
		return NewToken{}, err
	}
	return ask[NewToken](ctx, c, q)
}

// Tokens lists all API tokens.
func (c *Client) Tokens(ctx context.Context) (TokenList, error) {
	return ask[TokenList](ctx, c, c.get("/api/v1/tokens", nil))
}

// RevokeToken makes an API token useless for good.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	return c.ask(ctx, &request{method: http.MethodDelete, path: path("/api/v1/tokens/%s", id)}, nil)
}

// Audit returns a page of the audit log, oldest first.
func (c *Client) Audit(ctx context.Context, p ListAuditRecordsParams) (RecordList, error) {
	return ask[RecordList](ctx, c, c.get("/api/v1/audit", values("limit", strconv.Itoa(p.Limit), "cursor", p.Cursor)))
}
