/* popen, pclose and system.
 *
 * libc's own start the shell by an internal call that nothing can stand before. To take our variables out
 * of `environ` for the time of the call would race with each getenv of another thread (pgbench has many),
 * and "unset A B;" before the command would still show them to the machine's shell. So these are whole
 * functions of their own, which start the shell by our posix_spawn; what they return, the errno they leave
 * and how they treat SIGINT, SIGQUIT, SIGCHLD and cancellation is POSIX's and glibc's.
 */
#include "env.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define SHELL(command) ((char *[]){"sh", "-c", (char *)(command), NULL})

static pid_t wait_for(pid_t pid, int *status)
{
    pid_t done;

    do
        done = waitpid(pid, status, 0);
    while (done < 0 && errno == EINTR);
    return done;
}

/* ---- popen ---- */

struct stream {
    FILE *file;
    pid_t pid; /* 0: there is no process, the file holds the answer */
    struct stream *next;
};
static struct stream *streams;
static pthread_mutex_t streams_lock = PTHREAD_MUTEX_INITIALIZER;

/* Start a program with a pipe to us as its output (READING) or input; NULL with errno set if that fails. */
static FILE *start_piped(const char *program, char *const argv[], bool reading, pid_t *pid)
{
    int ends[2], error;

    if (pipe2(ends, O_CLOEXEC) < 0)
        return NULL;
    /* Our end stays close-on-exec: nothing that is started later, by popen or otherwise, may hold it open. */
    int ours = ends[!reading], theirs = ends[reading];
    FILE *file = fdopen(ours, reading ? "r" : "w");
    if (!file) {
        error = errno;
        close(ours);
    } else {
        posix_spawn_file_actions_t actions;
        posix_spawn_file_actions_init(&actions);
        error = posix_spawn_file_actions_adddup2(&actions, theirs, reading ? STDOUT_FILENO : STDIN_FILENO);
        if (error == 0)
            error = posix_spawn(pid, program, &actions, NULL, argv, environ);
        posix_spawn_file_actions_destroy(&actions);
        if (error) {
            fclose(file);
            file = NULL;
        }
    }
    close(theirs);
    if (error)
        errno = error;
    return file;
}

/* psql's compiled-in pager: "more" where the user has chosen none. */
static bool is_default_pager(const char *command)
{
    return strcmp(command, "more") == 0 && !getenv("PSQL_PAGER") && !getenv("PAGER");
}

EXPORT FILE *popen(const char *command, const char *mode)
{
    bool reading = strchr(mode, 'r'), writing = strchr(mode, 'w');
    const char *locpath = getenv("LOCPATH");
    char less[PATH_MAX];

    if (reading == writing || mode[strspn(mode, "rwe")]) {
        errno = EINVAL;
        return NULL;
    }
    struct stream *stream = calloc(1, sizeof *stream);
    if (!stream)
        return NULL;
    if (reading && locpath && *locpath && strcmp(command, "locale -a") == 0)
        stream->file = list_locales(locpath);
    else if (writing && is_default_pager(command) && locate("bin/less", less))
        stream->file = start_piped(less, (char *[]){"less", NULL}, reading, &stream->pid);
    else
        stream->file = start_piped("/bin/sh", SHELL(command), reading, &stream->pid);
    if (!stream->file) {
        free(stream);
        return NULL;
    }
    pthread_mutex_lock(&streams_lock);
    stream->next = streams;
    streams = stream;
    pthread_mutex_unlock(&streams_lock);
    return stream->file;
}

EXPORT int pclose(FILE *file)
{
    struct stream **link = &streams, *stream;
    int status = 0, cancel;

    pthread_mutex_lock(&streams_lock);
    while ((stream = *link) && stream->file != file)
        link = &stream->next;
    if (stream)
        *link = stream->next;
    pthread_mutex_unlock(&streams_lock);
    if (!stream) { /* not ours: libc knows what to say of it */
        if (!libc.pclose)
            start();
        return libc.pclose(file);
    }
    pid_t pid = stream->pid;
    free(stream);
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel); /* else the process would stay a zombie */
    int flushed = fclose(file), error = errno;
    if (pid && wait_for(pid, &status) < 0) {
        status = -1;
        error = errno;
    }
    pthread_setcancelstate(cancel, NULL);
    if (flushed != 0 && status == 0)
        status = -1;
    if (status == -1)
        errno = error;
    return status;
}

/* ---- system ---- */

/* SIGINT and SIGQUIT are ignored for the whole process while a shell runs: the first thread that comes in
 * sees to it, the last one to leave restores what was before. */
static pthread_mutex_t waiting_lock = PTHREAD_MUTEX_INITIALIZER;
static int waiting;
static struct sigaction interrupt_before, quit_before;

static void leave(const sigset_t *mask)
{
    pthread_mutex_lock(&waiting_lock);
    if (--waiting == 0) {
        sigaction(SIGINT, &interrupt_before, NULL);
        sigaction(SIGQUIT, &quit_before, NULL);
    }
    pthread_mutex_unlock(&waiting_lock);
    pthread_sigmask(SIG_SETMASK, mask, NULL);
}

struct running {
    pid_t pid;
    const sigset_t *mask;
};

static void cancel_shell(void *running)
{
    struct running *shell = running;

    kill(shell->pid, SIGKILL);
    wait_for(shell->pid, NULL);
    leave(shell->mask);
}

static int run_shell(const char *command)
{
    const struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigset_t blocked, mask, defaults;
    posix_spawnattr_t attributes;
    pid_t pid;
    int status = -1;

    sigemptyset(&blocked);
    sigaddset(&blocked, SIGCHLD);
    sigemptyset(&defaults);
    pthread_mutex_lock(&waiting_lock);
    if (waiting++ == 0) {
        sigaction(SIGINT, &ignore, &interrupt_before);
        sigaction(SIGQUIT, &ignore, &quit_before);
    }
    if (interrupt_before.sa_handler != SIG_IGN)
        sigaddset(&defaults, SIGINT);
    if (quit_before.sa_handler != SIG_IGN)
        sigaddset(&defaults, SIGQUIT);
    pthread_mutex_unlock(&waiting_lock);
    pthread_sigmask(SIG_BLOCK, &blocked, &mask);

    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigmask(&attributes, &mask);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
    int error = posix_spawn(&pid, "/bin/sh", NULL, &attributes, SHELL(command), environ);
    posix_spawnattr_destroy(&attributes);

    if (error == 0) {
        struct running shell = {pid, &mask};
        pthread_cleanup_push(cancel_shell, &shell);
        if (wait_for(pid, &status) < 0) {
            status = -1;
            error = errno;
        }
        pthread_cleanup_pop(0);
    } else if (error != EAGAIN && error != ENOMEM) {
        status = W_EXITCODE(127, 0); /* POSIX: no shell is as a shell that has ended with 127 */
    }
    leave(&mask);
    if (error)
        errno = error;
    return status;
}

EXPORT int system(const char *command)
{
    return command ? run_shell(command) : run_shell("exit 0") == 0;
}
