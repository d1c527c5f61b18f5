package sim

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
)

var listQuery = []string{"limit", "after_token", "order_by", "select_cols", "select_filters"}

// maxPage is the most rows of a page, and the number without a limit.
const maxPage = 25

// filterable are the columns that can be filtered and ordered by. The API has more of them; those that it computes,
// such as dph_total, are refused there too.
var filterable = []string{"id", "label", "actual_status", "gpu_name", "verification", "machine_id", "host_id"}

// badQuery is an error in a parameter of the list. Its answers carry no success field.
func badQuery(format string, args ...any) *reply {
	msg := "Error in query parameters: " + fmt.Sprintf(format, args...)
	return &reply{status: http.StatusBadRequest, value: jsonObject{"error": "invalid_request", "msg": msg}}
}

// list answers with a page of the rows that the filters leave, in order. The token of a page is the place of its
// last row in that order, so rows that come and go between two pages disturb no others.
func (a *Account) list(c *call) reply {
	limit := maxPage
	if text := c.query.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			return *badQuery("limit is not a number")
		}
		if limit = min(n, maxPage); limit <= 0 {
			limit = 5
		}
	}
	keep, bad := filters(c.query.Get("select_filters"))
	if bad != nil {
		return *bad
	}
	order, bad := ordering(c.query.Get("order_by"))
	if bad != nil {
		return *bad
	}
	var chosen []string
	if text := c.query.Get("select_cols"); text != "" && json.Unmarshal([]byte(text), &chosen) != nil {
		return *badQuery("select_cols is not a list")
	}

	var rows []*instance
	labels := make(map[string]int)
	for _, row := range a.instances {
		if keep(row) {
			rows = append(rows, row)
			labels[row.Label]++
		}
	}
	compare := func(x, y *instance) int { return order.compare(place(x), place(y)) }
	slices.SortFunc(rows, compare)
	total := len(rows)

	if token := c.query.Get("after_token"); token != "" {
		after, err := order.parseToken(token)
		if err != nil {
			value := jsonObject{"error": "invalid_token", "msg": "Invalid after_token"}
			return reply{status: http.StatusBadRequest, value: value}
		}
		rows = slices.DeleteFunc(rows, func(row *instance) bool { return order.compare(place(row), after) <= 0 })
	}
	var next any
	if len(rows) > limit {
		rows = rows[:limit]
		next = order.token(place(rows[limit-1]))
	}
	page := make([]jsonObject, len(rows))
	for i, row := range rows {
		page[i] = choose(a.read(row, false), chosen)
	}
	return ok(jsonObject{
		"success": true, "instances_found": len(page), "total_instances": total, "label_counts": labels,
		"next_token": next, "instances": page,
	})
}

// choose returns the chosen columns; one that does not exist is null.
func choose(columns jsonObject, chosen []string) jsonObject {
	if len(chosen) == 0 || slices.Contains(chosen, "*") {
		return columns
	}
	out := make(jsonObject, len(chosen))
	for _, name := range chosen {
		out[name] = columns[name]
	}
	return out
}

// place are the filterable columns of a row: numbers as uint64, all else as text.
func place(row *instance) jsonObject {
	return jsonObject{
		"id": row.ID, "label": row.Label, "actual_status": row.shown(), "gpu_name": row.GPUName,
		"verification": "verified", "machine_id": row.MachineID, "host_id": row.HostID,
	}
}

// filters reads select_filters, such as {"id":{"eq":123}}.
func filters(text string) (func(*instance) bool, *reply) {
	var wanted map[string]map[string]json.RawMessage
	if text != "" && json.Unmarshal([]byte(text), &wanted) != nil {
		return nil, badQuery("select_filters is not an object")
	}
	var tests []func(jsonObject) bool
	for column, operators := range wanted {
		if !slices.Contains(filterable, column) {
			return nil, badQuery("%s is not a valid search key", column)
		}
		for operator, raw := range operators {
			test, ok := filter(operator, raw, column)
			if !ok {
				return nil, badQuery("%s is not a valid operator or value for %s", operator, column)
			}
			tests = append(tests, test)
		}
	}
	return func(row *instance) bool {
		columns := place(row)
		return !slices.ContainsFunc(tests, func(test func(jsonObject) bool) bool { return !test(columns) })
	}, nil
}

func filter(operator string, raw json.RawMessage, column string) (func(jsonObject) bool, bool) {
	if operator == "in" || operator == "notin" {
		var list []json.RawMessage
		if json.Unmarshal(raw, &list) != nil {
			return nil, false
		}
		var values []any
		for _, element := range list {
			value, ok := scalar(element, column)
			if !ok {
				return nil, false
			}
			values = append(values, value)
		}
		return func(row jsonObject) bool { return slices.Contains(values, row[column]) == (operator == "in") }, true
	}
	value, ok := scalar(raw, column)
	if !ok {
		return nil, false
	}
	holds, ok := map[string]func(int) bool{
		"eq": func(n int) bool { return n == 0 }, "neq": func(n int) bool { return n != 0 },
		"gt": func(n int) bool { return n > 0 }, "gte": func(n int) bool { return n >= 0 },
		"lt": func(n int) bool { return n < 0 }, "lte": func(n int) bool { return n <= 0 },
	}[operator]
	return func(row jsonObject) bool { return holds(compareValues(row[column], value)) }, ok
}

// scalar reads a value to compare with a column: its type is the column's, and null is the empty text.
func scalar(raw json.RawMessage, column string) (any, bool) {
	if column == "id" || column == "machine_id" || column == "host_id" {
		var n uint64
		return n, !bytes.Equal(raw, []byte("null")) && json.Unmarshal(raw, &n) == nil
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return nil, false
	}
	if column == "actual_status" && bytes.Equal(raw, []byte("null")) {
		s = StatusNull
	}
	return s, true
}

func compareValues(x, y any) int {
	if n, ok := x.(uint64); ok {
		m, _ := y.(uint64)
		return cmp.Compare(n, m)
	}
	s, _ := x.(string)
	t, _ := y.(string)
	return cmp.Compare(s, t)
}

// order is a list of columns to sort by, the last one of which is id.
type order []struct {
	Col string `json:"col"`
	Dir string `json:"dir"`
}

// ordering reads order_by, such as [{"col":"id","dir":"asc"}].
func ordering(text string) (order, *reply) {
	var o order
	if text != "" && json.Unmarshal([]byte(text), &o) != nil {
		return nil, badQuery("order_by is not a list")
	}
	for _, by := range o {
		if !slices.Contains(filterable, by.Col) {
			return nil, badQuery("%s is not a valid search key", by.Col)
		}
	}
	tiebreaker := make(order, 1)
	tiebreaker[0].Col = "id"
	return append(o, tiebreaker...), nil
}

func (o order) compare(x, y jsonObject) int {
	for _, by := range o {
		n := compareValues(x[by.Col], y[by.Col])
		if by.Dir == "desc" {
			n = -n
		}
		if n != 0 {
			return n
		}
	}
	return 0
}

// token is the place of a row in this order, written as in the API reference: base64 of {"values": {"id": 123}}.
func (o order) token(row jsonObject) string {
	values := make(jsonObject)
	for _, by := range o {
		values[by.Col] = row[by.Col]
	}
	text, err := json.Marshal(jsonObject{"values": values})
	if err != nil {
		panic(err)
	}
	return base64.StdEncoding.EncodeToString(text)
}

func (o order) parseToken(token string) (jsonObject, error) {
	text, err := base64.StdEncoding.DecodeString(token)
	if err != nil {
		return nil, err
	}
	var t struct {
		Values map[string]json.RawMessage `json:"values"`
	}
	if err := json.Unmarshal(text, &t); err != nil {
		return nil, err
	}
	row := make(jsonObject)
	for _, by := range o {
		value, ok := scalar(t.Values[by.Col], by.Col)
		if !ok {
			return nil, fmt.Errorf("no value for %s", by.Col)
		}
		row[by.Col] = value
	}
	return row, nil
}
