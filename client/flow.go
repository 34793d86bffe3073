package client

import (
	"context"
	"strconv"
)

// PauseRun keeps new steps of a run from beginning, or lets them begin again.
func (c *Client) PauseRun(ctx context.Context, id string, pause bool) (Run, error) {
	verb := "resume"
	if pause {
		verb = "pause"
	}
	q, err := c.post(path("/api/v1/runs/%s/"+verb, id), nil, "")
	if err != nil {
		return Run{}, err
	}
	q.again = true
	return ask[Run](ctx, c, q)
}

// AnswerApproval answers the approval of a step. The first answer counts; telling the
// same one again is no error.
func (c *Client) AnswerApproval(ctx context.Context, run, step string, a Answer) (Attempt, error) {
	q, err := c.post(path("/api/v1/runs/%s/steps/%s/approval", run, step), a, "")
	if err != nil {
		return Attempt{}, err
	}
	q.again = true
	return ask[Attempt](ctx, c, q)
}

// Slots returns a page of the slots that runs hold, by key.
func (c *Client) Slots(ctx context.Context, p ListSlotsParams) (SlotList, error) {
	return ask[SlotList](ctx, c, c.get("/api/v1/slots", values("limit", strconv.Itoa(p.Limit), "cursor", p.Cursor)))
}
