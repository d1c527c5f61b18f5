package job

import (
	"context"
	"strings"
)

// maxOthers is more runs than go on at a time.
const maxOthers = 1000

// Others returns the ids of the other runs of the instance whose commands have not ended.
func (r *Run) Others(ctx context.Context) ([]string, error) {
	var ids []string
	err := r.call(ctx, func() call {
		return call{script: "others", args: []string{r.cfg.ID}, read: func(l *lines) error {
			ids = nil
			for {
				line, err := l.next()
				if err != nil || line == "end" {
					return err
				}
				id, ok := strings.CutPrefix(line, "run ")
				if !ok || !ValidID(id) || len(ids) == maxOthers {
					return l.wrong("%.100q", line)
				}
				ids = append(ids, id)
			}
		}}
	})
	return ids, err
}
