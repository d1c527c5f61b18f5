package vast

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func kindOf(err error) string {
	var (
		auth        *AuthError
		forbidden   *ForbiddenError
		notFound    *NotFoundError
		unavailable *UnavailableError
		api         *APIError
	)
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &auth):
		return "auth"
	case errors.As(err, &forbidden):
		return "forbidden " + forbidden.Scope
	case errors.As(err, &notFound):
		return fmt.Sprint("not found ", notFound.ID)
	case errors.As(err, &unavailable):
		return fmt.Sprint("unavailable ", unavailable.Status)
	case errors.As(err, &api):
		return fmt.Sprint("api ", api.Status, " ", api.Code)
	}
	return "other: " + err.Error()
}

func TestErrorKinds(t *testing.T) {
	tests := []struct {
		call   string
		status int
		body   string
		want   string
	}{
		{"Instance", 200, `{"instances":{"id":7}}`, "ok"},
		{"Instance", 200, `{"success":true,"instances":{"id":7},"error":null}`, "ok"},
		{"Instance", 200, `{"instances":null}`, "not found 7"},
		{"Instance", 200, `{"instances":{"id":8}}`, "unavailable 200"},
		{"Instance", 200, `{"instances":{}}`, "unavailable 200"},
		{"Instance", 200, `{}`, "unavailable 200"},
		{"Instance", 200, `null`, "unavailable 200"},
		{"Instance", 200, ``, "unavailable 200"},
		{"Instance", 200, `<html><body>Sign in to the hotel</body></html>`, "unavailable 200"},
		{"Instance", 200, `{"instances":`, "unavailable 200"},
		{"Instance", 200, `{"success":false,"error":"deprecated_endpoint","msg":"use v1"}`, "api 200 deprecated_endpoint"},
		{"Instance", 410, `{"success":false,"error":"deprecated_endpoint","msg":"use v1"}`, "api 410 deprecated_endpoint"},
		{"Instance", 410, `{"msg":"gone"}`, "api 410 deprecated_endpoint"},
		{"Instance", 404, `{"success":false,"error":"not_found"}`, "not found 7"},
		{"Instance", 404, `{"success":false,"error":"no_such_instance","msg":"x"}`, "not found 7"},
		{"Instance", 404, `{"success":false,"msg":"Instance not found"}`, "not found 7"},
		{"Instance", 404, `{"error":"not_found"}`, "not found 7"},
		{"Instance", 404, `{"detail":"Not Found"}`, "api 404 "},
		{"Instance", 404, `{"success":false,"error":"auth_error","msg":"Invalid user key"}`, "auth"},
		{"Instance", 404, `{"success":false,"error":"auth_error","msg":""}`, "auth"},
		{"Instance", 404, `{"success":false,"msg":"Session expired. Please log in again."}`, "auth"},
		{"Instance", 404, `{"msg":"Invalid user key"}`, "auth"},
		{"Instance", 404, `Session expired. Please log in again.`, "auth"},
		{"Instance", 404, `<html>404</html>`, "unavailable 404"},
		{"Instance", 404, `404 page not found`, "unavailable 404"},
		{"Instance", 404, ``, "unavailable 404"},
		{"Instance", 404, `[]`, "unavailable 404"},
		{"Instance", 401, `{"success":false,"error":"auth_error","msg":"Invalid user key"}`, "auth"},
		{"Instance", 401, ``, "auth"},
		{"Instance", 401, `<html>proxy</html>`, "unavailable 401"},
		{"Instance", 200, `{"success":false,"error":"auth_error","msg":"Invalid user key"}`, "auth"},
		{"Instance", 403, `{"success":false,"error":"not_authorized"}`, "forbidden instance_read"},
		{"Instance", 403, `Forbidden`, "forbidden instance_read"},
		{"Instance", 403, `<!DOCTYPE html><title>Attention Required!</title>`, "unavailable 403"},
		{"Destroy", 403, `{"error":"auth_error"}`, "forbidden instance_write"},
		{"Instances", 403, `{}`, "forbidden instance_read"},
		{"AttachKey", 403, `{}`, "forbidden instance_write"},
		{"AccountKeys", 403, `{}`, "forbidden user_read"},
		{"AddAccountKey", 403, `{}`, "forbidden user_write"},
		{"Logs", 403, `{"error":"not_authorized"}`, "forbidden instance_read"},
		{"Instance", 429, `API requests too frequent`, "unavailable 429"},
		{"Instance", 429, `{"detail":"API requests too frequent endpoint threshold=1.0"}`, "unavailable 429"},
		{"Instance", 200, `{"success":false,"msg":"API requests too frequent"}`, "unavailable 429"},
		{"Instance", 500, `oops`, "unavailable 500"},
		{"DetachKey", 500, `{"success":false,"error":"delete_ssh_from_instance"}`, "unavailable 500"},
		{"Instance", 503, `<html>`, "unavailable 503"},
		{"Instance", 408, ``, "unavailable 408"},
		{"Instance", 483, `{"success":false,"error":"invalid_json"}`, "api 483 invalid_json"},
		{"Instances", 200, `{"success":true,"instances":[]}`, "ok"},
		{"Instances", 200, `{"success":true,"instances":null}`, "unavailable 200"},
		{"Instances", 200, `{"success":true}`, "unavailable 200"},
		{"Instances", 200, `[]`, "unavailable 200"},
		{"Instances", 400, `{"error":"invalid_request","msg":"Error in query parameters"}`, "api 400 invalid_request"},
		{"Instances", 404, `{"success":false,"error":"not_found"}`, "api 404 not_found"},
		{"Destroy", 200, `{"success":true,"msg":"Instance destroyed successfully"}`, "ok"},
		{"Destroy", 201, `{"success":"true"}`, "ok"},
		{"Destroy", 200, `{}`, "unavailable 200"},
		{"Destroy", 200, `[]`, "unavailable 200"},
		{"Destroy", 200, `{"msg":"maybe"}`, "unavailable 200"},
		{"Destroy", 204, ``, "unavailable 204"},
		{"Destroy", 200, `{"success":false,"error":"no_such_instance"}`, "not found 7"},
		{"Destroy", 404, `{"success":false,"error":"not_found","msg":"x"}`, "not found 7"},
		{"Destroy", 400, `{"success":false,"error":"invalid_args","msg":"invalid instance_id"}`, "api 400 invalid_args"},
		{"Start", 200, `{"success":false,"error":"resources_unavailable","msg":"state change queued"}`, "api 200 resources_unavailable"},
		{"Start", 400, `{"success":false,"error":"missing_billing"}`, "api 400 missing_billing"},
		{"SetLabel", 400, `{"success":false,"error":"label_too_long"}`, "api 400 label_too_long"},
		{"DetachKey", 404, `{"success":false,"error":"no_such_instance"}`, "not found 7"},
		{"DetachKey", 404, `{"success":false,"error":"no_such_ssh_key"}`, "api 404 no_such_ssh_key"},
		{"DetachKey", 404, `{"success":false,"error":"not_found"}`, "api 404 not_found"},
		{"AttachKey", 200, `{"success":false,"msg":"SSH key already associated with instance."}`, "ok"},
		{"AttachKey", 400, `{"success":false,"error":"invalid","msg":"SSH key already associated with instance."}`, "ok"},
		{"AttachKey", 200, `{"success":false,"msg":"Something else"}`, "api 200 "},
		{"AttachKey", 404, `{"success":false,"error":"no_such_instance"}`, "not found 7"},
		{"AddAccountKey", 400, `{"success":false,"msg":"The SSH key already exists on this account"}`, "ok"},
		{"AddAccountKey", 400, `{"success":false,"error":"team_ssh_keys_not_supported","msg":"x"}`, "api 400 team_ssh_keys_not_supported"},
		{"AddAccountKey", 400, `{"success":false,"error":"no_ssh_key","msg":"No ssh key provided"}`, "api 400 no_ssh_key"},
		{"AccountKeys", 404, `{"success":false,"error":"not_found"}`, "ok"},
		{"AccountKeys", 404, `{"success":false,"msg":"No SSH keys found"}`, "ok"},
		{"AccountKeys", 404, `{"success":false,"error":"auth_error","msg":"Invalid user key"}`, "auth"},
		{"AccountKeys", 404, `{"detail":"Not Found"}`, "api 404 "},
		{"AccountKeys", 404, `<html>`, "unavailable 404"},
		{"AccountKeys", 200, `{"success":true}`, "unavailable 200"},
		{"Logs", 404, `{"success":false,"error":"invalid_id"}`, "not found 7"},
		{"Logs", 200, `{"success":true}`, "unavailable 200"},
	}
	for _, tt := range tests {
		c := serve(t, says(tt.status, tt.body))
		found := false
		for _, call := range calls {
			if call.name != tt.call {
				continue
			}
			found = true
			err := call.do(t.Context(), c)
			if got := kindOf(err); got != tt.want {
				t.Errorf("%s, status %d, %s: %s (%v), want %s", tt.call, tt.status, tt.body, got, err, tt.want)
			}
			if err != nil && strings.ContainsAny(err.Error(), "\r\n") {
				t.Errorf("the error has more than one line: %q", err)
			}
		}
		if !found {
			t.Errorf("no call %q", tt.call)
		}
	}
}

func TestAlready(t *testing.T) {
	for body, want := range map[string]bool{
		`{"success":true}`: false,
		`{"success":false,"msg":"SSH key already associated with instance."}`: true,
	} {
		c := serve(t, says(200, body))
		if already, err := c.AttachKey(t.Context(), 7, publicKey); already != want || err != nil {
			t.Errorf("%s: already = %v, error %v", body, already, err)
		}
	}
}

func TestErrorTexts(t *testing.T) {
	ids := "PUT /api/v0/instances/{id}/"
	for _, tt := range []struct {
		err        error
		text, hint string
	}{
		{&APIError{ids, 200, "resources_unavailable", "queued\n"},
			`vast.ai refused PUT /api/v0/instances/{id}/: status 200: "resources_unavailable": "queued\n"`, ""},
		{&APIError{Code: codeTeamKeys}, "", "attach to the instance instead: vast-ssh key attach <id>"},
		{&APIError{Code: codeDeprecated}, "", "vast.ai has retired this API call: install a newer vast-ssh"},
		{&AuthError{ids, 401, "Invalid user key"}, `vast.ai does not accept the API key: status 401: "Invalid user key"`, setKey},
		{&AuthError{ids, 404, "Session expired. Please log in again."}, "", "log in again: vastai tfa login"},
		{&ForbiddenError{ids, "instance_write", ""},
			"this API key must not PUT /api/v0/instances/{id}/ (it needs the permission instance_write, and the instance must be yours): status 403",
			"use a key with the permission instance_write: https://cloud.vast.ai/manage-keys/"},
		{&NotFoundError{7}, "no instance 7 in this account", "list your instances: vast-ssh ls"},
		{&UnavailableError{Endpoint: ids, Reason: "no answer in time"}, "no usable answer to PUT /api/v0/instances/{id}/: no answer in time",
			"check the network connection, then try again"},
		{&UnavailableError{Status: 429}, "", "vast.ai limits how often it may be asked: wait a few seconds, then try again"},
	} {
		if got := tt.err.Error(); tt.text != "" && got != tt.text {
			t.Errorf("text %q, want %q", got, tt.text)
		}
		if got := tt.err.(interface{ Hint() string }).Hint(); got != tt.hint {
			t.Errorf("hint %q, want %q", got, tt.hint)
		}
	}
}
