/* A stand-in for the NVIDIA driver's library: the GPUs of the file that LAB_NVML names. It is read at every call, so
   that a test may change it. One word and its value a line; what stands after a line `gpu` is that GPU's:

     driver 550.54.15             error FUNCTION CODE    (of one GPU, or above all of them)
     gpu                          hang FUNCTION          (until the line is gone)
     name, uuid, bus, total, used, utilization, memory_utilization, graphics_clock, memory_clock, temperature, fan,
     power, limit, compute PID, graphics PID             (one line each, as often as there are such)

   What a GPU does not tell is not supported. Signatures and numbers: the NVML API reference. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9 };
enum { WORD = 200, NOBODY = -1 };

typedef struct { unsigned long long total, free, used; } memory;
typedef struct { unsigned int version; unsigned long long total, reserved, free, used; } memory_v2;
typedef struct { unsigned int gpu, memory; } utilization;
typedef struct {
    char legacy[16];
    unsigned int domain, bus, device, id, subsystem;
    char bus_id[32];
} pci;
typedef struct { unsigned int pid; unsigned long long used; unsigned int gpu_instance, compute_instance; } process;

/* The n-th line of a GPU (or of nobody) that begins with `key`; its rest goes into `rest`. Number of GPUs if no key. */
static int look(int gpu, const char *key, int n, char *rest)
{
    const char *path = getenv("LAB_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[2 * WORD], word[WORD];
    int at = NOBODY, found = 0;

    if (!file)
        return key ? 0 : NOBODY;
    while (!found && fgets(line, sizeof line, file)) {
        int length = 0;
        if (sscanf(line, "%199s %n", word, &length) < 1)
            continue;
        line[strcspn(line, "\n")] = 0;
        if (!strcmp(word, "gpu"))
            at++;
        else if (key && at == gpu && !strcmp(word, key) && n-- == 0) {
            snprintf(rest, WORD, "%s", line + length);
            found = 1;
        }
    }
    fclose(file);
    return key ? found : at + 1;
}

/* Whether a line `key function` stands there; `code`: the number behind it. */
static int said(int gpu, const char *key, const char *function, int *code)
{
    char rest[WORD], name[WORD];
    for (int n = 0; look(gpu, key, n, rest); n++)
        if (sscanf(rest, "%199s %d", name, code) >= 1 && !strcmp(name, function))
            return 1;
    return 0;
}

static int begin(int gpu, const char *function)
{
    int code = OK;
    while (said(gpu, "hang", function, &code) || said(NOBODY, "hang", function, &code))
        usleep(10000);
    if (said(gpu, "error", function, &code) || said(NOBODY, "error", function, &code))
        return code;
    return OK;
}

static int of(void *handle) { return (int)(intptr_t)handle - 1; }

static int text(int gpu, const char *function, const char *key, char *out, unsigned int size)
{
    char rest[WORD];
    int code = begin(gpu, function);
    if (code)
        return code;
    if (!look(gpu, key, 0, rest))
        return NOT_SUPPORTED;
    snprintf(out, size, "%s", rest);
    return OK;
}

static int number(void *handle, const char *function, const char *key, unsigned long long *out)
{
    char rest[WORD];
    int code = text(of(handle), function, key, rest, sizeof rest);
    if (!code)
        *out = strtoull(rest, NULL, 10);
    return code;
}

static int whole(void *handle, const char *function, const char *key, unsigned int *out)
{
    unsigned long long value;
    int code = number(handle, function, key, &value);
    if (!code)
        *out = (unsigned int)value;
    return code;
}

static int processes(void *handle, const char *function, const char *key, unsigned int *count, process *out)
{
    char rest[WORD];
    unsigned int n = 0, room = *count;
    int code = begin(of(handle), function);
    if (code)
        return code;
    for (; look(of(handle), key, n, rest); n++)
        if (out && n < room)
            out[n] = (process){ .pid = (unsigned int)strtoul(rest, NULL, 10) };
    *count = n;
    return n > room ? INSUFFICIENT_SIZE : OK;
}

int nvmlInitWithFlags(unsigned int flags)
{
    (void)flags;
    if (look(0, NULL, 0, NULL) == NOBODY)
        return DRIVER_NOT_LOADED;
    return begin(NOBODY, __func__);
}

int nvmlShutdown(void) { return begin(NOBODY, __func__); }

const char *nvmlErrorString(int code)
{
    static char text[40];
    snprintf(text, sizeof text, "error %d", code);
    return text;
}

int nvmlSystemGetDriverVersion(char *out, unsigned int size) { return text(NOBODY, __func__, "driver", out, size); }

int nvmlDeviceGetCount_v2(unsigned int *out)
{
    int code = begin(NOBODY, __func__);
    *out = (unsigned int)look(0, NULL, 0, NULL);
    return code;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **out)
{
    *out = (void *)(intptr_t)(index + 1);
    return (int)index < look(0, NULL, 0, NULL) ? begin((int)index, __func__) : NOT_FOUND;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **out)
{
    char rest[WORD];
    for (int gpu = 0; gpu < look(0, NULL, 0, NULL); gpu++)
        if (look(gpu, "uuid", 0, rest) && !strcmp(rest, uuid)) {
            *out = (void *)(intptr_t)(gpu + 1);
            return begin(gpu, __func__);
        }
    return NOT_FOUND;
}

int nvmlDeviceGetName(void *gpu, char *out, unsigned int size) { return text(of(gpu), __func__, "name", out, size); }
int nvmlDeviceGetUUID(void *gpu, char *out, unsigned int size) { return text(of(gpu), __func__, "uuid", out, size); }

int nvmlDeviceGetPciInfo_v3(void *gpu, pci *out)
{
    memset(out, 0, sizeof *out);
    return text(of(gpu), __func__, "bus", out->bus_id, sizeof out->bus_id);
}

int nvmlDeviceGetMemoryInfo(void *gpu, memory *out)
{
    int code = number(gpu, __func__, "total", &out->total);
    return code ? code : number(gpu, __func__, "used", &out->used);
}

int nvmlDeviceGetMemoryInfo_v2(void *gpu, memory_v2 *out)
{
    int code = number(gpu, __func__, "total", &out->total);
    return code ? code : number(gpu, __func__, "used", &out->used);
}

int nvmlDeviceGetUtilizationRates(void *gpu, utilization *out)
{
    int code = whole(gpu, __func__, "utilization", &out->gpu);
    return code ? code : whole(gpu, __func__, "memory_utilization", &out->memory);
}

int nvmlDeviceGetClockInfo(void *gpu, unsigned int kind, unsigned int *out)
{
    return whole(gpu, __func__, kind == 2 ? "memory_clock" : "graphics_clock", out);
}

int nvmlDeviceGetTemperature(void *gpu, unsigned int sensor, unsigned int *out)
{
    (void)sensor;
    return whole(gpu, __func__, "temperature", out);
}

int nvmlDeviceGetFanSpeed(void *gpu, unsigned int *out) { return whole(gpu, __func__, "fan", out); }
int nvmlDeviceGetPowerUsage(void *gpu, unsigned int *out) { return whole(gpu, __func__, "power", out); }
int nvmlDeviceGetEnforcedPowerLimit(void *gpu, unsigned int *out) { return whole(gpu, __func__, "limit", out); }

int nvmlDeviceGetComputeRunningProcesses_v3(void *gpu, unsigned int *count, process *out)
{
    return processes(gpu, __func__, "compute", count, out);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *gpu, unsigned int *count, process *out)
{
    return processes(gpu, __func__, "graphics", count, out);
}
