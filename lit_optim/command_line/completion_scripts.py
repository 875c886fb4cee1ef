"""Scripts that make the tab key of a shell call `lit-optim complete`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

#: bash treats `=` as the end of a word, so it replaces only what follows the last one.
BASH = """\
_lit_optim() {
    local line="${COMP_LINE:0:COMP_POINT}" prefix="" word
    local -a found
    mapfile -t found < <(@PROGRAM@ complete "$line" 2>/dev/null)
    word="${line##* }"
    case "$COMP_WORDBREAKS" in *=*) prefix="${word%"${word##*=}"}" ;; esac
    COMPREPLY=("${found[@]#"$prefix"}")
    case "${COMPREPLY[*]}" in *[=./]) compopt -o nospace 2>/dev/null ;; esac
}
_lit_optim_python() {
    case " ${COMP_LINE:0:COMP_POINT}" in
        *[\\ /]train.py\\ *|*\\ -m\\ lit_optim\\ *) _lit_optim ;;
        *) COMPREPLY=() ;;
    esac
}
complete -o default -F _lit_optim lit-optim train.py
complete -o bashdefault -o default -F _lit_optim_python python python3
"""
ZSH = """\
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -u }
_lit_optim() {
    local -a found
    local line="${(j: :)words[1,CURRENT-1]} $PREFIX"
    found=("${(@f)$(@PROGRAM@ complete "$line" 2>/dev/null)}")
    found=("${(@)found:#}")
    (( $#found )) || { _files; return }
    compadd -Q -S '' -- "${(@M)found:#*[=./]}"
    compadd -Q -- "${(@)found:#*[=./]}"
}
_lit_optim_python() {
    if [[ " ${(j: :)words[1,CURRENT-1]} " == (*[\\ /]train.py\\ *|*\\ -m\\ lit_optim\\ *) ]]; then
        _lit_optim
    elif (( $+functions[_python] )); then
        _python "$@"
    else
        _files
    fi
}
compdef _lit_optim lit-optim train.py
compdef _lit_optim_python python python3
"""
FISH = """\
function __lit_optim_complete
    set -l line (commandline -cp)
    @PROGRAM@ complete "$line" 2>/dev/null
end
function __lit_optim_is_ours
    string match -qr '(^|[ /])train\\.py |-m lit_optim ' -- (commandline -cp)
end
complete -c lit-optim -f -a '(__lit_optim_complete)'
complete -c train.py -f -a '(__lit_optim_complete)'
for program in python python3
    complete -c $program -n __lit_optim_is_ours -f -a '(__lit_optim_complete)'
end
"""
SHELLS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def completion_script(shell: str) -> str:
    """The script for a shell; it calls the program of this environment."""
    own = Path(sys.executable).with_name("lit-optim")
    call = [str(own)]
    if not own.exists():
        call = [sys.executable, "-c", "from lit_optim.cli import main; main()"]
    return SHELLS[shell].replace("@PROGRAM@", shlex.join(call))
