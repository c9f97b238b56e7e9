"""The TPU and Kubernetes launchers: what they start, and how it ends."""

import re
import subprocess

import yaml
from absl.testing import absltest, parameterized

from tests.project import launchers


class TpuTest(parameterized.TestCase):
  def gcloud(self, **outcomes: str) -> launchers.Fakes:
    """A `gcloud` that succeeds, but for calls with one of these words."""
    cases = ''.join(
      f'  *{word}*) {outcome} ;;\n' for word, outcome in outcomes.items()
    )
    program = f'case "$*" in\n{cases}  *describe*) echo READY ;;\nesac\n'
    return launchers.Fakes(self, gcloud=program, git='', mkdir='')

  def pod(
    self, fakes: launchers.Fakes, *flags: str
  ) -> tuple[list[str], subprocess.CompletedProcess]:
    """Which commands of gcloud ran, in order."""
    result = launchers.run(
      launchers.TPU, *launchers.SLICE, *flags, *launchers.FLAGS, PATH=fakes.path
    )
    called = [call[4] for call in fakes.calls('gcloud')]
    return called, result

  def test_slice_that_is_there_is_reused(self):
    called, result = self.pod(self.gcloud())
    self.assertEqual(result.returncode, 0, result.stderr)
    self.assertEqual(
      called, ['describe', 'scp', 'ssh', 'ssh', 'ssh', 'scp'], result.stdout
    )

  def test_slice_is_made_where_there_is_none(self):
    fakes = self.gcloud(describe='exit 1')
    called, result = self.pod(fakes, '--spot')
    self.assertEqual(result.returncode, 0, result.stderr)
    self.assertEqual(called[:3], ['describe', 'create', 'scp'])
    create = fakes.calls('gcloud')[1]
    self.assertEqual(create[5], 'slice')
    self.assertContainsSubset(
      {
        '--accelerator-type=v5litepod-16',
        '--version=v2-alpha-tpuv5-lite',
        '--zone=zone',
        '--project=project',
        '--spot',
      },
      set(create),
    )

  def test_slice_that_is_not_ready_is_refused(self):
    called, result = self.pod(self.gcloud(describe='echo PREEMPTED'))
    self.assertEqual(called, ['describe'])
    self.assertEqual(result.returncode, 1)
    self.assertEqual(
      result.stderr,
      'tpu_pod.sh: slice is PREEMPTED; delete it, then call again.\n',
    )

  @parameterized.product(
    failing=('create', 'scp', 'ssh', ''), delete=(True, False)
  )
  def test_deleted_only_where_asked_for(self, failing, delete):
    outcomes = {failing: 'exit 75'} if failing else {}
    fakes = self.gcloud(describe='exit 1', **outcomes)
    called, result = self.pod(fakes, *(['--delete'] if delete else []))
    self.assertEqual(result.returncode, 75 if failing else 0, result.stderr)
    self.assertEqual(called.count('delete'), int(delete))
    self.assertEqual(called[-1] == 'delete', delete)
    if failing:
      self.assertIn(failing, called)

  @parameterized.parameters(('run.py', 75), ('run.py', 1), ('--recurse', 1))
  def test_workdir_is_fetched_whatever_the_end(self, failing, status):
    """And a failure to fetch it is a failure."""
    fakes = self.gcloud(**{failing: f'exit {status}'})
    called, result = self.pod(fakes, '--delete')
    self.assertEqual(result.returncode, status)
    self.assertEqual(called[-3:], ['ssh', 'scp', 'delete'])
    fetch = fakes.calls('gcloud')[-2]
    self.assertIn('slice:memloc_jax/workdirs/with_no_space', fetch)
    self.assertIn('--worker=0', fetch)
    self.assertEqual(
      'could not be fetched' in result.stderr, failing == '--recurse'
    )

  def test_what_is_printed_is_what_gcloud_gets(self):
    fakes = self.gcloud(describe='exit 1')
    flags = ('--delete', '--copy=experiments/configs/', '--spot')
    called, result = self.pod(fakes, *flags)
    self.assertEqual(result.returncode, 0, result.stderr)
    self.assertEqual(called[-1], 'delete')
    idle = self.gcloud()
    shown = launchers.run(
      launchers.TPU,
      '--dry_run',
      *launchers.SLICE,
      *flags,
      *launchers.FLAGS,
      PATH=idle.path,
    )
    self.assertEmpty(idle.calls('gcloud', 'git', 'mkdir'))
    self.assertEqual(
      launchers.lines(shown), fakes.calls('gcloud', 'git', 'mkdir')
    )

  def test_hosts_get_the_commit_the_package_and_one_command(self):
    result = launchers.run(
      launchers.TPU,
      '--dry_run',
      *launchers.SLICE,
      '--copy=my_folder',
      *launchers.FLAGS,
    )
    commands = launchers.lines(result)
    (archive,) = [command for command in commands if command[0] == 'git']
    self.assertEqual(archive[-1], 'HEAD')
    sent = [command for command in commands if command[4:5] == ['scp']]
    for command in sent[:-1]:
      self.assertIn('--worker=all', command)
    self.assertIn('my_folder', sent[1])
    run_on_hosts = [
      command for command in commands if launchers.remote(command)
    ]
    for command in run_on_hosts:
      self.assertIn('--worker=all', command)
      shell = launchers.run('bash', '-n', '-c', launchers.remote(command))
      self.assertEqual(shell.returncode, 0, shell.stderr)
    self.assertIn(
      ".venv/bin/pip install --quiet -e '.[tpu]'",
      launchers.remote(run_on_hosts[-2]),
    )

  def test_new_slice_gets_the_workdir_that_is_here(self):
    sent = []
    for described in ('exit 1', 'echo READY'):
      fakes = self.gcloud(describe=described)
      # A folder that is there.
      result = launchers.run(
        launchers.TPU,
        *launchers.SLICE,
        launchers.FLAGS[0],
        '--workdir=tests/project',
        PATH=fakes.path,
      )
      self.assertEqual(result.returncode, 0, result.stderr)
      calls = fakes.calls('gcloud')
      sent.append([call for call in calls if 'slice:memloc_jax/tests' in call])
    self.assertLen(sent[0], 1)
    self.assertContainsSubset({'scp', '--worker=all'}, set(sent[0][0]))
    self.assertEmpty(sent[1])

  @parameterized.parameters(
    'name', 'zone', 'accelerator_type', 'runtime_version', 'config', 'workdir'
  )
  def test_missing_flag_is_one_sentence(self, name):
    fakes = self.gcloud()
    given = [
      flag
      for flag in (*launchers.SLICE, *launchers.FLAGS, '--delete')
      if not flag.startswith(f'--{name}=')
    ]
    result = launchers.run(launchers.TPU, *given, PATH=fakes.path)
    self.assertEqual(result.returncode, 2)
    self.assertEqual(result.stderr, f'tpu_pod.sh: --{name}= is missing.\n')
    self.assertEmpty(fakes.calls('gcloud'))

  @parameterized.parameters('/absolute', 'a/../..', 'with space', 'host:path')
  def test_workdir_that_cannot_be_copied_is_refused(self, workdir):
    result = launchers.run(
      launchers.TPU,
      *launchers.SLICE,
      launchers.FLAGS[0],
      f'--workdir={workdir}',
    )
    self.assertEqual(result.returncode, 2)
    self.assertStartsWith(result.stderr, 'tpu_pod.sh: --workdir must be a path')


class JobSetTest(parameterized.TestCase):
  def manifest(self, *flags: str) -> dict:
    result = launchers.run(
      launchers.JOBSET,
      '--dry_run',
      *launchers.CLUSTER,
      *flags,
      *launchers.FLAGS,
    )
    self.assertEqual(result.returncode, 0, result.stderr)
    return yaml.safe_load(result.stdout)

  def test_one_process_a_node(self):
    manifest = self.manifest('--nodes=4', '--gpus=8')
    self.assertEqual(manifest['apiVersion'], 'jobset.x-k8s.io/v1alpha2')
    self.assertEqual(manifest['kind'], 'JobSet')
    self.assertEqual(manifest['metadata']['name'], 'study')
    self.assertTrue(manifest['spec']['network']['enableDNSHostnames'])
    (workers,) = manifest['spec']['replicatedJobs']
    self.assertEqual((workers['name'], workers['replicas']), ('workers', 1))
    job = workers['template']['spec']
    self.assertEqual(job['completionMode'], 'Indexed')
    self.assertEqual((job['completions'], job['parallelism']), (4, 4))
    (container,) = launchers.pod(manifest)['containers']
    self.assertEqual(container['image'], 'host/image:1')
    self.assertEqual(
      container['command'][-3:],
      [
        '--coordinator=study-workers-0-0.study:1234',
        '--num_processes=4',
        '--process_id=$(JOB_COMPLETION_INDEX)',
      ],
    )
    self.assertEqual(container['resources']['limits'], {'nvidia.com/gpu': 8})
    self.assertEqual(
      container['env'],
      [{'name': 'JAX_LOCAL_DEVICE_IDS', 'value': '0,1,2,3,4,5,6,7'}],
    )

  def test_start_again_is_no_failure(self):
    """Exit 75 and eviction are not counted, bad input is final."""
    manifest = self.manifest()
    policy = manifest['spec']['failurePolicy']
    self.assertGreater(policy['maxRestarts'], 0)
    bad_input, start_again = policy['rules']
    self.assertEqual(bad_input['action'], 'FailJobSet')
    (pattern,) = bad_input['onJobFailureMessagePatterns']
    message = 'Container study for pod a/b failed with exit code {} matching '
    self.assertRegex(message.format(2), pattern)
    self.assertNotRegex(message.format(75), pattern)
    self.assertEqual(start_again['action'], 'RestartJobSetAndIgnoreMaxRestarts')
    for rule in policy['rules']:
      self.assertEqual(rule['onJobFailureReasons'], ['PodFailurePolicy'])
    job = manifest['spec']['replicatedJobs'][0]['template']['spec']
    # Any other failure ends the Job with a reason that no rule names.
    self.assertEqual(job['backoffLimit'], 0)
    exits, evicted = job['podFailurePolicy']['rules']
    self.assertEqual((exits['action'], evicted['action']), ('FailJob',) * 2)
    self.assertEqual(exits['onExitCodes']['values'], [2, 75])
    self.assertEqual(
      evicted['onPodConditions'],
      [{'type': 'DisruptionTarget', 'status': 'True'}],
    )
    self.assertEqual(
      exits['onExitCodes']['containerName'],
      launchers.pod(manifest)['containers'][0]['name'],
    )
    # A policy for failures of pods needs this.
    self.assertEqual(launchers.pod(manifest)['restartPolicy'], 'Never')

  def test_workdirs_are_on_the_claim(self):
    specification = launchers.pod(self.manifest())
    (container,) = specification['containers']
    (mount,) = container['volumeMounts']
    (volume,) = specification['volumes']
    self.assertEqual(mount['name'], volume['name'])
    self.assertEqual(mount['mountPath'], f'{container["workingDir"]}/workdirs')
    self.assertEqual(volume['persistentVolumeClaim'], {'claimName': 'claim'})

  def test_kubernetes_fills_in_only_its_own_name(self):
    (container,) = launchers.pod(self.manifest())['containers']
    filled = [
      part for part in container['command'] if re.search(r'(?<!\$)\$\(', part)
    ]
    self.assertEqual(filled, ['--process_id=$(JOB_COMPLETION_INDEX)'])

  def test_everything_is_filled_in(self):
    result = launchers.run(
      launchers.JOBSET, '--dry_run', *launchers.CLUSTER, *launchers.FLAGS
    )
    self.assertNotIn('${', result.stdout)
    self.assertNotIn('# FLAGS', result.stdout)

  def test_what_is_printed_is_what_kubectl_gets(self):
    fakes = launchers.Fakes(self, kubectl='cat')
    ran = launchers.run(
      launchers.JOBSET, *launchers.CLUSTER, *launchers.FLAGS, PATH=fakes.path
    )
    self.assertEqual(
      fakes.calls('kubectl'), [['kubectl', 'apply', '--filename=-']]
    )
    shown = launchers.run(
      launchers.JOBSET,
      '--dry_run',
      *launchers.CLUSTER,
      *launchers.FLAGS,
      PATH=fakes.path,
    )
    self.assertEqual(shown.stdout, ran.stdout)
    self.assertLen(fakes.calls('kubectl'), 1)

  @parameterized.parameters('name', 'image', 'claim', 'config', 'workdir')
  def test_missing_flag_is_one_sentence(self, name):
    given = [
      flag
      for flag in (*launchers.CLUSTER, *launchers.FLAGS)
      if not flag.startswith(f'--{name}=')
    ]
    result = launchers.run(launchers.JOBSET, '--dry_run', *given)
    self.assertEqual(result.returncode, 2)
    self.assertEqual(result.stderr, f'jobset.sh: --{name}= is missing.\n')

  @parameterized.parameters(
    '--name=Study',
    '--nodes=0',
    '--gpus=two',
    '--claim=a b',
    '--image=a b',
    '--workdir=elsewhere',
    '--workdir=workdirs/../x',
  )
  def test_bad_value_is_refused_by_name(self, flag):
    result = launchers.run(
      launchers.JOBSET, '--dry_run', *launchers.CLUSTER, *launchers.FLAGS, flag
    )
    self.assertEqual(result.returncode, 2)
    self.assertStartsWith(result.stderr, f'jobset.sh: {flag.split("=")[0]} ')
    self.assertEmpty(result.stdout)


if __name__ == '__main__':
  absltest.main()
