/* PL/Perl, PL/Python and PL/Tcl: each language is told where its own library lies by its own interface, so
 * that no variable of it is ever in the environment. A user's PERL5LIB, PYTHONHOME and TCL_LIBRARY mean what
 * they mean without us. The languages' libraries come with the extension that a server loads.
 */
#include "env.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

#define TABLE_OF_LANGUAGES
#include "table.h"

/* Append "-IDIR" to argv; it stays allocated, as Perl keeps argv for $0. */
static void include(char **argv, int *argc, const char *dir)
{
    if (*dir && asprintf(&argv[*argc], "-I%s", dir) > 0)
        ++*argc;
}

/* @INC: PERL5LIB's directories, ours, then (PERL5LIB's again and) those compiled into Perl. */
EXPORT int perl_parse(void *perl, void *xsinit, int argc, char **argv, char **env)
{
    int (*parse)(void *, void *, int, char **, char **) = real_function("perl_parse", CALLER);
    const char *theirs = getenv("PERL5LIB");
    char dir[PATH_MAX];

    theirs = theirs ? theirs : "";
    char **all = calloc((size_t)argc + strlen(theirs) + LENGTH(perl_dirs) + 1, sizeof *all);
    if (!all || argc < 1)
        return parse(perl, xsinit, argc, argv, env);
    int count = 1;
    all[0] = argv[0];
    while (next_part(&theirs, dir))
        include(all, &count, dir);
    for (const char *const *ours = perl_dirs; *ours; ours++)
        if (locate(*ours, dir))
            include(all, &count, dir);
    memcpy(all + count, argv + 1, ((size_t)argc - 1) * sizeof *argv);
    return parse(perl, xsinit, count + argc - 1, all, env);
}

static void set_python_home(void *caller)
{
    static wchar_t home[PATH_MAX]; /* Python keeps the pointer */
    char dir[PATH_MAX];

    if (!*python_dir || home[0] || getenv("PYTHONHOME") || !locate(python_dir, dir))
        return;
    dir[strlen(dir) - strlen(python_dir) - 1] = '\0';
    if (mbstowcs(home, dir, LENGTH(home) - 1) == (size_t)-1)
        return;
    void (*set)(const wchar_t *) = real_function("Py_SetPythonHome", caller);
    set(home);
}

EXPORT void Py_InitializeEx(int signals)
{
    void (*initialize)(int) = real_function("Py_InitializeEx", CALLER);

    set_python_home(CALLER);
    initialize(signals);
}

EXPORT void Py_Initialize(void)
{
    void (*initialize)(void) = real_function("Py_Initialize", CALLER);

    set_python_home(CALLER);
    initialize();
}

EXPORT int Tcl_Init(void *interpreter)
{
    int (*initialize)(void *) = real_function("Tcl_Init", CALLER);
    int (*evaluate)(void *, const char *, ptrdiff_t, int) = real_function("Tcl_EvalEx", CALLER);
    char dir[PATH_MAX], script[PATH_MAX + 160];

    if (!*tcl_dir || getenv("TCL_LIBRARY") || !locate(tcl_dir, dir))
        return initialize(interpreter);
    /* tcl_pkgPath: the machine's directories of packages, compiled in. TCLLIBPATH is the user's way to name some. */
    snprintf(script, sizeof script, "set ::tcl_library {%s}; set ::tcl_pkgPath {}", dir);
    evaluate(interpreter, script, -1, 0);
    int result = initialize(interpreter);
    /* clock reads the machine's time zones, from a list that it makes when it is first used: ours go before. */
    if (locate("share/zoneinfo", dir)) {
        snprintf(script, sizeof script, "namespace eval ::tcl::clock {trace add variable ZoneinfoPaths write "
                 "{apply {args {set ::tcl::clock::ZoneinfoPaths [list {%s}]}}}}", dir);
        evaluate(interpreter, script, -1, 0);
    }
    /* Debian's tm.tcl names the directory of modules (msgcat, which clock needs) by an absolute path. */
    evaluate(interpreter, "catch {foreach dir [::tcl::tm::path list] {if {[string match /usr/* $dir]} "
             "{::tcl::tm::path remove $dir}}; ::tcl::tm::path add {*}[glob -directory $::tcl_library tcl?]}", -1, 0);
    return result;
}
