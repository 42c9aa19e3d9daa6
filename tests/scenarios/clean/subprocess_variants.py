"""Children of all sorts: isolated (-I), without site (-S), optimised (-O), and one that is killed."""

# expect: nothing
# args: --fail
# oracle: 0
import signal
import subprocess
import sys

HELLO = "print('hello')"
CLEAN = "import os, psycopg\nwith psycopg.connect(os.environ['ZOO_DSN']) as c: print(c.execute('SELECT 1').fetchone())"
KILLED = "import os, psycopg, time\nc = psycopg.connect(os.environ['ZOO_DSN'])\nprint('up', flush=True)\ntime.sleep(60)"


def main():
    for options in (["-I"], ["-S"]):
        done = subprocess.run([sys.executable, *options, "-c", HELLO], capture_output=True, text=True, check=False)
        print(options, done.returncode, done.stdout.strip())
    done = subprocess.run([sys.executable, "-O", "-c", CLEAN], capture_output=True, text=True, check=False)
    print(done.returncode, done.stdout.strip())
    with subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True) as child:
        print(child.stdout.readline().strip())
        child.send_signal(signal.SIGKILL)
    print("killed:", child.returncode)
    print("ORACLE leaked=0")


main()
