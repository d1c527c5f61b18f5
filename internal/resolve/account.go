package resolve

import (
	"slices"

	"vast-ssh/internal/vast"
)

// ByLabel returns the one instance of an account that carries a label, running or not. Errors are a *NotFoundError and
// an *AmbiguousError.
func ByLabel(account []vast.Instance, label string) (vast.Instance, error) {
	var ids []uint64
	for _, in := range account {
		if in.Label == label {
			ids = append(ids, in.ID)
		}
	}
	// The same instance can come on two pages of a list that changes while it is read.
	slices.Sort(ids)
	id, err := only(label, slices.Compact(ids))
	if err != nil {
		return vast.Instance{}, err
	}
	return account[slices.IndexFunc(account, func(in vast.Instance) bool { return in.ID == id })], nil
}
