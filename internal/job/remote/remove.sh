# remove ID: removes the directory of the run and only what is known to be in it.
cd -- "$HOME/.vast-ssh-run" 2>/dev/null || {
	printf 'end\n'
	exit 0
}
if [ -d "$1" ] && [ ! -h "$1" ]; then
	cd -- "$1" || die 'the directory of the run cannot be entered'
	[ ! -d started ] || [ -f status ] || die 'the command has not ended'
	rm -f command command.* run out err pid pid.new status status.new sending sending.*
	[ ! -d started ] || rmdir started || die 'the directory of the run cannot be removed'
	cd .. && rmdir "$1" || die 'the directory of the run cannot be removed'
	cd .. && rmdir .vast-ssh-run 2>/dev/null
fi
printf 'end\n'
