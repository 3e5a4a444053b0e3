# systemd_ended.sh DIRECTORY UNIT RESULT: writes down how a unit ended and what it used. systemd runs it, as root, after
# the last process of the unit, with SERVICE_RESULT, EXIT_CODE and EXIT_STATUS (systemd.exec(5)); the unit's cgroups
# still stand. It starts few programs, as it runs within the task's limit of memory.
trap '' TERM
exec 2>/dev/null
cd "$1" || exit 0  # nobody wants to know

tell() { while read -r line; do echo "$2 $line"; done <"$1/$2"; }

{
  echo "service_result $SERVICE_RESULT"
  echo "exit_code $EXIT_CODE"
  echo "exit_status $EXIT_STATUS"
  tell . signal
  tell /proc uptime
  while IFS=: read -r _ controllers group; do
    case $group in */"$2") ;; *) continue ;; esac
    case ,$controllers, in
      ,,)
        for name in memory.events memory.peak cpu.stat; do tell "/sys/fs/cgroup$group" $name; done
        tell "/sys/fs/cgroup/unified$group" cpu.stat ;;  # beside v1 there is one without controllers
      *,memory,*)
        for name in memory.oom_control memory.max_usage_in_bytes; do tell "/sys/fs/cgroup/memory$group" $name; done ;;
      *,cpuacct,*) tell "/sys/fs/cgroup/cpuacct$group" cpuacct.usage ;;
    esac
  done </proc/self/cgroup
  [ "$EXIT_CODE $EXIT_STATUS" = "exited 0" ] || echo "system $(systemctl is-system-running)"
} >result.new
mv result.new "$3"
