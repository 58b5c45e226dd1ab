/* A program of a bundle, for test_env_library.py: does what its first argument says and prints what it sees.
 * Linked without libpgbake-env.so it shows what libc alone does. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <iconv.h>
#include <locale.h>
#include <pthread.h>
#include <pwd.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ENV "/usr/bin/env"
#define IS(word) (strcmp(argv[1], word) == 0)

static void wait_all(void)
{
    while (wait(NULL) > 0)
        ;
}

/* Replace or start a process that prints its environment, by the function of the given name. */
static void start(const char *how)
{
    char *args[] = {"env", NULL};
    pid_t pid;

    if (strcmp(how, "execve") == 0)
        execve(ENV, args, environ);
    else if (strcmp(how, "execv") == 0)
        execv(ENV, args);
    else if (strcmp(how, "execvp") == 0)
        execvp("env", args);
    else if (strcmp(how, "execvpe") == 0)
        execvpe("env", args, environ);
    else if (strcmp(how, "execl") == 0)
        execl(ENV, "env", "ARGUMENT=1", NULL);
    else if (strcmp(how, "execlp") == 0)
        execlp("env", "env", "ARGUMENT=1", NULL);
    else if (strcmp(how, "execle") == 0)
        execle(ENV, "env", "ARGUMENT=1", NULL, environ);
    else if (strcmp(how, "fexecve") == 0)
        fexecve(open(ENV, O_RDONLY), args, environ);
    else if (strcmp(how, "posix_spawn") == 0)
        posix_spawn(&pid, ENV, NULL, NULL, args, environ);
    else if (strcmp(how, "posix_spawnp") == 0)
        posix_spawnp(&pid, "env", NULL, NULL, args, environ);
    else if (strcmp(how, "vfork") == 0 && vfork() == 0)
        _exit(execv(ENV, args));
    else if (strcmp(how, "system") == 0)
        system(ENV);
    else if (strcmp(how, "popen") == 0)
        pclose(popen(ENV, "w"));
    wait_all();
}

static void status(const char *what, int value)
{
    printf("%s %d %s\n", what, value, value == -1 ? strerror(errno) : "");
}

/* What a shell's end, a signal, a bad argument and a missing reader look like to the caller. */
static void statuses(void)
{
    char text[64] = "";
    FILE *file;

    setvbuf(stdout, NULL, _IONBF, 0);
    status("system 3", system("exit 3"));
    status("system killed", system("kill -9 $$"));
    status("system missing", system("/no/such/program 2>/dev/null"));
    status("system null", system(NULL) != 0);
    status("pclose 7", pclose(popen("exit 7", "r")));
    status("pclose killed", pclose(popen("kill -15 $$", "r")));
    file = popen("echo one; exit 2", "re");
    printf("read %s", fgets(text, sizeof text, file));
    status("cloexec", fcntl(fileno(file), F_GETFD) & FD_CLOEXEC);
    status("pclose 2", pclose(file));
    file = popen("cat", "w");
    fputs("written\n", file);
    status("pclose written", pclose(file));
    errno = 0;
    status("bad mode", popen("true", "rw") ? 0 : -1);
    status("bad mode", popen("true", "rx") ? 0 : -1);
    status("bad mode", popen("true", "") ? 0 : -1);
    signal(SIGPIPE, SIG_IGN);
    file = popen("exec <&-; exit 0", "w");
    for (int i = 0; i < 100000; i++)
        fputs("more than a pipe holds ", file);
    status("pclose unread", pclose(file));
    signal(SIGCHLD, SIG_IGN);
    status("system without children", system("exit 3"));
    status("pclose without children", pclose(popen("exit 3", "r")));
    signal(SIGCHLD, SIG_DFL);
    close(0);
    file = popen("cat", "w");
    fputs("without input\n", file);
    status("pclose", pclose(file));
    file = popen("cat /dev/null; echo out", "r");
    printf("read %s", fgets(text, sizeof text, file));
    status("pclose", pclose(file));
}

static void show_signals(const char *when)
{
    struct sigaction interrupt, quit;
    sigset_t mask;

    sigaction(SIGINT, NULL, &interrupt);
    sigaction(SIGQUIT, NULL, &quit);
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    printf("%s: INT %d QUIT %d CHLD blocked %d\n", when, interrupt.sa_handler == SIG_DFL,
           quit.sa_handler == SIG_DFL, sigismember(&mask, SIGCHLD));
}

static void signals(void)
{
    setvbuf(stdout, NULL, _IONBF, 0);
    show_signals("before");
    /* Asleep for a moment: the caller's mask is restored only when the shell runs, and it may be the slower one. */
    system("sleep 0.2; grep -E 'Sig(Blk|Ign)' /proc/$PPID/status; grep -E 'Sig(Blk|Ign)' /proc/self/status");
    show_signals("after");
    signal(SIGINT, SIG_IGN);
    system("grep -E 'Sig(Blk|Ign)' /proc/self/status");
    pclose(popen("grep -E 'Sig(Blk|Ign)' /proc/self/status", "w"));
    show_signals("ignored");
}

static void *many(void *leaks)
{
    char line[4096];

    for (int i = 0; i < 20; i++) {
        FILE *file = popen("env; exit 5", "r");
        while (fgets(line, sizeof line, file))
            if (strncmp(line, "LOCPATH=", 8) == 0)
                ++*(int *)leaks;
        if (WEXITSTATUS(pclose(file)) != 5 || WEXITSTATUS(system("exit 6")) != 6 || !getenv("LOCPATH"))
            ++*(int *)leaks;
    }
    return NULL;
}

static void threads(void)
{
    pthread_t thread[8];
    int leaks[8] = {0}, sum = 0;

    for (int i = 0; i < 8; i++)
        pthread_create(&thread[i], NULL, many, &leaks[i]);
    for (int i = 0; i < 8; i++) {
        pthread_join(thread[i], NULL);
        sum += leaks[i];
    }
    printf("wrong %d\n", sum);
    show_signals("after");
}

static void *sleeper(void *unused)
{
    system("exec sleep 60");
    return unused;
}

static void cancel(void)
{
    pthread_t thread;
    void *result;
    time_t before = time(NULL);

    pthread_create(&thread, NULL, sleeper, NULL);
    usleep(300000);
    pthread_cancel(thread);
    pthread_join(thread, &result);
    printf("cancelled %d in time %d children %d\n", result == PTHREAD_CANCELED, time(NULL) - before < 10,
           waitpid(-1, NULL, WNOHANG) >= 0);
    show_signals("after");
}

static struct sockaddr_un address(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    return address;
}

/* Listen at each path after the second argument, or leave a dead socket there ("!PATH"); connect to the second. */
static void connects(char **argv)
{
    struct sockaddr_un to = address(argv[2]);

    for (char **path = argv + 3; *path; path++) {
        int dead = **path == '!', fd = socket(AF_UNIX, SOCK_STREAM, 0);
        struct sockaddr_un at = address(*path + dead);
        if (bind(fd, (struct sockaddr *)&at, sizeof at) || (!dead && listen(fd, 1)))
            perror(*path);
        if (dead)
            close(fd);
    }
    int fd = socket(AF_UNIX, SOCK_STREAM, 0), result = connect(fd, (struct sockaddr *)&to, sizeof to);
    if (result) {
        puts(strerror(errno));
    } else {
        socklen_t length = sizeof to;
        getpeername(fd, (struct sockaddr *)&to, &length);
        puts(to.sun_path);
    }
}

static void *find(const char *name)
{
    void *function = dlsym(RTLD_DEFAULT, name);

    if (!function)
        fprintf(stderr, "no %s\n", name);
    return function;
}

static void perl(char **env)
{
    void (*init)(int *, char ***, char ***) = find("Perl_sys_init3");
    void *(*alloc)(void) = find("perl_alloc");
    void (*construct)(void *) = find("perl_construct");
    int (*parse)(void *, void *, int, char **, char **) = find("perl_parse");
    int (*run)(void *) = find("perl_run");
    char *arguments[] = {"", "-e", "use strict; $| = 1; print qq($_\\n) for @INC; system('env')", NULL};
    char **argv = arguments;
    int argc = 3;

    init(&argc, &argv, &env);
    void *interpreter = alloc();
    construct(interpreter);
    if (parse(interpreter, NULL, argc, arguments, NULL) == 0)
        run(interpreter);
}

static void python(void)
{
    void (*initialize)(void) = find("Py_Initialize");
    int (*run)(const char *) = find("PyRun_SimpleString");

    initialize();
    run("import sys, os, json, subprocess; print(sys.prefix, 'PYTHONHOME' in os.environ, flush=True);"
        "subprocess.run(['env']); subprocess.run(['env'], env=dict(os.environ)); os.system('env')");
}

static void tcl(void)
{
    void *(*create)(void) = find("Tcl_CreateInterp");
    int (*init)(void *) = find("Tcl_Init");
    int (*evaluate)(void *, const char *, long, int) = find("Tcl_EvalEx");
    void *interpreter = create();

    if (init(interpreter) != 0 || evaluate(interpreter,
                                           "puts $tcl_library; puts [clock format 0 -gmt 1];"
                                           "puts [scan [encoding convertfrom cp1252 \\x80] %c];"
                                           "puts [interp eval [interp create] {set tcl_library}]; puts [tcl::tm::path list];"
                                           "puts [exec env]",
                                           -1, 0) != 0)
        puts("failed");
}

static int children;

static void on_child(int signal)
{
    (void)signal;
    children += waitpid(-1, NULL, WNOHANG) > 0;
}

/* Look accounts up by name, number and into a small buffer; then whether a handler of SIGCHLD took a child. */
static void accounts(char **name)
{
    struct passwd entry, *found;
    struct group *group;
    char small[8];

    signal(SIGCHLD, on_child);
    for (; *name; name++) {
        errno = 0;
        found = getpwnam(*name);
        printf("%s %d %s %d\n", *name, found ? (int)found->pw_uid : -1, found ? found->pw_dir : "", errno);
    }
    printf("4711 %s\n", (found = getpwuid(4711)) ? found->pw_name : "");
    printf("4712 %s\n", (found = getpwuid(4712)) ? found->pw_name : "");
    printf("group %s\n", (group = getgrgid(4711)) ? group->gr_mem[1] : "");
    printf("group %d\n", (group = getgrnam("lovelaces")) ? (int)group->gr_gid : -1);
    printf("small %d\n", getpwnam_r("ada", &entry, small, sizeof small, &found) == ERANGE);
    printf("children %d %d\n", children, (int)wait(NULL));
}

int main(int argc, char **argv, char **env)
{
    char line[4096];

    if (argc > 2 && (IS("perl") || IS("python") || IS("tcl")))
        for (char **library = argv + 2; *library; library++)
            if (!dlopen(*library, RTLD_NOW | RTLD_GLOBAL))
                puts(dlerror());
    if (IS("print")) {
        for (char **name = argv + 2; *name; name++)
            printf("%s=%s\n", *name, getenv(*name) ? getenv(*name) : "(unset)");
    } else if (IS("statuses")) {
        statuses();
    } else if (IS("signals")) {
        signals();
    } else if (IS("threads")) {
        threads();
    } else if (IS("cancel")) {
        cancel();
    } else if (IS("no-shell")) {
        status("popen", popen("true", "r") ? 0 : -1);
        status("system", system("true"));
    } else if (IS("read")) { /* the output of a command */
        FILE *file = popen(argv[2], "r");
        while (fgets(line, sizeof line, file))
            fputs(line, stdout);
        status("pclose", pclose(file));
    } else if (IS("write")) { /* a command that is given two lines */
        FILE *file = popen(argv[2], "w");
        fputs("first\nsecond\n", file);
        status("pclose", pclose(file));
    } else if (IS("connect")) {
        connects(argv);
    } else if (IS("plugin")) { /* a library that nobody else sees, which runs a language */
        void *plugin = dlopen(argv[2], RTLD_NOW | RTLD_LOCAL);
        void (*run)(void) = plugin ? dlsym(plugin, "run") : NULL;
        if (run)
            run();
        else
            puts(dlerror());
    } else if (IS("dlopen")) {
        puts(dlopen(argv[2], RTLD_NOW) ? "loaded" : dlerror());
    } else if (IS("accounts")) {
        accounts(argv + 2);
    } else if (IS("setlocale")) { /* a category by its number, and a name */
        char *name = setlocale(atoi(argv[2]), argv[3]);
        puts(name ? name : "refused");
    } else if (IS("newlocale")) { /* a name, a mask, and a name of the base */
        int mask = argc > 3 ? atoi(argv[3]) : LC_ALL_MASK;
        locale_t base = argc > 4 ? newlocale(LC_ALL_MASK, argv[4], (locale_t)0) : (locale_t)0;
        locale_t made = newlocale(mask, argv[2], base), c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
        puts(!made ? strerror(errno) : made == c ? "C" : "made");
    } else if (IS("iconv")) {
        puts(iconv_open("UTF-8", argv[2]) == (iconv_t)-1 ? strerror(errno) : "known");
    } else if (IS("perl")) {
        perl(env);
    } else if (IS("python")) {
        python();
    } else if (IS("tcl")) {
        tcl();
    } else {
        start(argv[1]);
    }
    return 0;
}
