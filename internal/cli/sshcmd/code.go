package sshcmd

import (
	"errors"

	"vast-ssh/config"
	"vast-ssh/internal/cli/voice"
	"vast-ssh/internal/proxy"
	"vast-ssh/internal/resolve"
	"vast-ssh/internal/rotate"
	"vast-ssh/internal/vast"
	"vast-ssh/internal/wipe"
	"vast-ssh/internal/wipe/destroy"
	"vast-ssh/known"
)

// exitCode gives the documented exit code of an error.
func exitCode(err error) voice.Code {
	switch {
	case is[*incompleteError](err):
		return voice.Incomplete // whatever it was that came between
	case is[*voice.UsageError](err), is[*config.Error](err), is[*resolve.NameError](err), is[*vast.URLError](err):
		return voice.Usage
	case is[*wipe.OptionError](err):
		return voice.Usage
	case is[*rotate.PausedError](err), is[*destroy.UnknownError](err), is[*destroy.RefusedError](err), is[*wipe.LessError](err):
		return voice.Incomplete
	case is[*vast.NoKeyError](err), is[*vast.BadKeyError](err), is[*vast.AuthError](err), is[*vast.ForbiddenError](err):
		return voice.NoKey
	case is[*resolve.NotFoundError](err), is[*resolve.AmbiguousError](err), is[*vast.NotFoundError](err):
		return voice.NoInstance
	case is[*known.MismatchError](err), is[*known.UnknownError](err), is[*proxy.HostKeyError](err),
		is[*proxy.RoutesDifferError](err), is[*proxy.FirstContactError](err), is[*notShownError](err), errors.Is(err, errDeclined),
		is[*unpinnedError](err):
		return voice.HostKey
	case is[*vast.UnavailableError](err), is[*proxy.UnreachableError](err), is[*proxy.HandshakeError](err),
		is[*resolve.NotRunningError](err), is[*resolve.NoAddressError](err), is[*wipe.NotRunningError](err),
		is[*wipe.LostError](err):
		return voice.Unreachable
	}
	return voice.Failed
}

func is[E error](err error) bool {
	var target E
	return errors.As(err, &target)
}
