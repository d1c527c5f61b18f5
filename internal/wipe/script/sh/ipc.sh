# What processes leave in an IPC namespace when they end: segments of shared memory and queues of messages, see sysvipc(7) and
# mq_overview(7).

# shares_ipc: whether the container has the IPC namespace of the machine, whose number is fixed (PROC_IPC_INIT_INO of
# linux/proc_ns.h). Its segments, its queues and /dev/shm are then those of others, too.
shares_ipc() { case $(readlink /proc/self/ns/ipc 2>/dev/null) in '' | 'ipc:[4026531839]') ;; *) return 1 ;; esac; }

# each_ipc FUNCTION [TEXT]: calls it for all there is, with its kind (m for a segment, q for a queue, f for a POSIX queue), its id
# or path, and the text. See proc_sysvipc(5) for the tables.
each_ipc() {
    for table in shm:m msg:q; do
        sed -n 's/^ *[-0-9][0-9]*  *\([0-9][0-9]*\) .*/\1/p' "/proc/sysvipc/${table%:*}" 2>/dev/null | while read -r id; do
            $1 "${table#*:}" "$id" "${2:-}"
        done
    done
    set +f
    for queue in /dev/mqueue/* /dev/mqueue/.[!.]* /dev/mqueue/..?*; do [ ! -f "$queue" ] || $1 f "$queue" "${2:-}"; done
    set -f
}

count_ipc() { echo; }

tell_ipc() {
    case $1 in
        m) item memory 0 "shared memory $2" "$3" ;;
        q) item memory 0 "message queue $2" "$3" ;;
        f) item memory 0 "$2" "$3" ;;
    esac
}

end_ipc() {
    case $1 in
        f) rm -f "$2" ;;
        *) ipcrm "-$1" "$2" ;;
    esac 2>/dev/null
}

# ipc_stays: whether nothing is removed, and sets ipc_why to the reason. A program that is held goes on where the login stays.
ipc_stays() {
    ipc_why='of the machine, or of another container'
    ! shares_ipc || return 0
    ipc_why='a program that goes on may use it'
    stays_in_use && [ -n "$(on_hold)" ]
}

# remove_ipc removes it: the kernel clears that memory before it gives it to anybody. What is still attached to a process that is
# spared goes with that.
remove_ipc() {
    if ipc_stays; then
        each_ipc tell_ipc "$ipc_why"
    else
        each_ipc end_ipc
        each_ipc tell_ipc 'it cannot be removed'
    fi
}
