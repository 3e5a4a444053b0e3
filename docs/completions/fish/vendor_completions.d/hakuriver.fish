# Completion of hakuriver for fish (3.1 or newer).
function __hakuriver_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l option (string match -r -- '^--[^=]*=' $current)
    for row in (env _HAKURIVER_COMPLETE=1 $words[1] $words[2..-1] $current 2>/dev/null)
        set -l cells (string split \t -- $row)
        switch $cells[1]
            case plain
                printf '%s%s\t%s\n' "$option" $cells[2] $cells[3]
            case file
                __fish_complete_path $current
            case dir
                __fish_complete_directories $current
            case command
                __fish_complete_command
        end
    end
end
for program in hakuriver hakuriver.host hakuriver.runner hakuriver.client hakuriver.task hakuriver.vps hakuriver.docker hakuriver.docker-shell hakuriver.ssh hakuriver.init hakurun
    complete --no-files --keep-order --command $program --arguments '(__hakuriver_complete)'
end
